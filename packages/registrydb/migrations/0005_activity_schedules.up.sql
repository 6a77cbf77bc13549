-- Reason: who disabled an activity, and what the API asks of the orchestrator.
-- Lock: ACCESS EXCLUSIVE on activity_definitions for a moment; the new columns have no default to fill.
-- Older processes: may keep running.

alter table activity_definitions add column disabled_by text, add column disabled_reason text;

create table activity_commands (
  seq bigint generated always as identity primary key,
  kind text not null check (kind in ('start', 'task_done', 'cancel_run')),
  payload jsonb not null,
  tries integer not null default 0,
  not_before timestamptz not null default statement_timestamp(),
  created_at timestamptz not null default statement_timestamp()
);
comment on table activity_commands is 'What has to be done in Temporal, written with what caused it; a row goes when it is done.';
create index activity_commands_due on activity_commands (not_before, seq);
