-- Reason: takes back 0002. Leases are lost with the batches; their rows stay due.
-- Lock: ACCESS EXCLUSIVE on the tables.
-- Older workers: must be stopped.
drop table fleet;
drop table turns;
drop table source_health;
drop table source_limits;
drop table workers;
drop table timer_shards;
drop table batch_fences;
drop table batches;
