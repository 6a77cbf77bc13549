-- Reason: takes back 0003. Held events and dead letters are lost: deliver or export them first.
-- Lock: ACCESS EXCLUSIVE on the tables.
-- Older workers: must be stopped.
drop function poll_log_days(integer, integer);
drop table poll_log;
drop table lifecycle_outbox;
drop table dead_letters;
drop table held_events;
