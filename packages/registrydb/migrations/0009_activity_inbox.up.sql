-- Reason: events that are collected or handed to an open run, event types with their schemas, signed webhooks, and replays.
-- Lock: ACCESS EXCLUSIVE on activity_events, activity_runs and dead_letters for a moment (checks are made anew, without a look
-- at rows of before, which all pass).
-- Older processes: may keep running; they start one run for each event, as before.

create table activity_inbox (
  activity_id uuid not null references activity_definitions (id),
  event_key text not null,
  tenant_id text not null,
  seq bigint generated always as identity,
  collect_key text not null,
  entry integer not null,
  version integer not null,
  received_at timestamptz not null default statement_timestamp(),
  taken_by text,
  primary key (activity_id, event_key)
);
comment on table activity_inbox is 'Events that matched an entry with debounce, batch or deliver: signal, once each; taken_by: the batch or the run that has it.';
comment on column activity_inbox.entry is 'Index of the entry in "on" of the version that matched.';
create index activity_inbox_open on activity_inbox (activity_id, collect_key, seq) where taken_by is null;
create index activity_inbox_taken on activity_inbox (activity_id, taken_by) where taken_by is not null;

create index activity_inbox_event on activity_inbox (tenant_id, event_key);

alter table activity_runs add column inbox_key text;
create index activity_runs_finished on activity_runs (finished_at) where finished_at is not null;
create index activity_runs_event on activity_runs (tenant_id, event_key) where event_key is not null;
create index dead_letters_last on dead_letters (last_at);
comment on column activity_runs.inbox_key is 'Key of the events that are handed to the run while it is open (deliver: signal).';

alter table activity_events drop constraint activity_events_origin_check, add constraint activity_events_origin_check
  check (origin in ('cron', 'at', 'manual', 'api', 'webhook', 'bus', 'poll', 'task', 'own', 'collected', 'replay')) not valid;
alter table dead_letters drop constraint dead_letters_stage_check, add constraint dead_letters_stage_check
  check (stage in ('decode', 'schema', 'conflict', 'loop', 'start')) not valid;

create table event_types (
  tenant_id text not null references tenants (id),
  type text not null,
  state text not null check (state in ('draft', 'approved')),
  schema jsonb,
  example jsonb,
  owner text,
  description text,
  version integer not null default 1,
  created_at timestamptz not null default statement_timestamp(),
  updated_at timestamptz not null default statement_timestamp(),
  primary key (tenant_id, type)
);
comment on column event_types.schema is 'JSON Schema of data; enforced once the type is approved.';

create table webhooks (
  id uuid primary key,
  tenant_id text not null references tenants (id),
  slug text not null,
  type text not null,
  scheme text not null check (scheme in ('standard', 'github')),
  tolerance_seconds integer not null check (tolerance_seconds between 1 and 3600),
  sealed bytea,
  sealed_before bytea,
  before_until timestamptz,
  enabled boolean not null default true,
  version integer not null default 1,
  created_at timestamptz not null default statement_timestamp(),
  updated_at timestamptz not null default statement_timestamp(),
  deleted_at timestamptz,
  constraint sealed_until_deleted check ((sealed is null) = (deleted_at is not null))
);
comment on column webhooks.sealed_before is 'The secret before the last rotation, accepted until before_until.';
create unique index webhooks_slug on webhooks (tenant_id, slug) where deleted_at is null;
