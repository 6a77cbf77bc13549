-- Reason: takes back 0007. Dead letters are lost.
-- Lock: ACCESS EXCLUSIVE on the tables.
-- Older processes: must be stopped.
drop table dead_letters;
alter table activity_outbox drop constraint activity_outbox_key, add constraint activity_outbox_key_key unique (key);
alter table activity_events drop column matches;
alter table activity_definitions drop column event_types;
