-- Reason: undoes 0009_activity_inbox. Collected events that were not handed on are lost, webhooks and event types too.
-- Lock: ACCESS EXCLUSIVE on the tables for a moment.
-- Older processes: may keep running.
drop table webhooks;
drop table event_types;
drop table activity_inbox;
drop index activity_runs_finished, activity_runs_event, dead_letters_last;
alter table activity_runs drop column inbox_key;
delete from dead_letters where stage = 'schema';
alter table dead_letters drop constraint dead_letters_stage_check, add constraint dead_letters_stage_check
  check (stage in ('decode', 'conflict', 'loop', 'start'));
update activity_events set origin = 'bus' where origin in ('own', 'collected', 'replay');
alter table activity_events drop constraint activity_events_origin_check, add constraint activity_events_origin_check
  check (origin in ('cron', 'at', 'manual', 'api', 'webhook', 'bus', 'poll', 'task'));
