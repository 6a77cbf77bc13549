-- The two databases; `milkrun worker` and `milkrun api` make their tables. Roles with fewer rights: packages/workerdb/roles.
create database workerdb;
create database registrydb;
