-- Reason: takes back 0005. Commands not carried out yet are lost.
-- Lock: ACCESS EXCLUSIVE on the tables.
-- Older processes: must be stopped.
drop table activity_commands;
alter table activity_definitions drop column disabled_by, drop column disabled_reason;
