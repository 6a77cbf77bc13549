-- Reason: takes back 0004. All activities, their runs and tasks are lost; schedules in Temporal stay and have to be deleted.
-- Lock: ACCESS EXCLUSIVE on the tables.
-- Older processes: must be stopped.
drop table activity_outbox;
drop table activity_tasks;
drop table activity_context;
drop table activity_runs;
drop table activity_events;
drop table activity_versions;
drop table activity_definitions;
