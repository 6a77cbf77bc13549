-- Reason: activity definitions with their versions, the events they see, their runs and tasks.
-- Lock: none on existing tables; only new ones are made.
-- Older processes: may keep running; they know nothing of these tables.

create table activity_definitions (
  id uuid primary key,
  tenant_id text not null references tenants (id),
  slug text not null,
  name text not null,
  enabled boolean not null default true,
  trigger_type text not null check (trigger_type in ('cron', 'at', 'event', 'manual')),
  trigger_config jsonb not null,
  context_sources jsonb not null,
  task_templates jsonb not null,
  dedupe_key_strategy text not null,
  version integer not null check (version >= 1),
  fingerprint text not null,
  origin text not null check (origin in ('api', 'file')),
  status text not null default 'active' check (status in ('active', 'done', 'tripped')),
  status_reason text,
  failures_in_row integer not null default 0,
  time_key text,
  covered_at timestamptz,
  disabled_at timestamptz,
  schedule_fingerprint text,
  schedule_synced_at timestamptz,
  created_at timestamptz not null default statement_timestamp(),
  updated_at timestamptz not null default statement_timestamp(),
  deleted_at timestamptz,
  constraint covered_if_timed check ((time_key is null) = (covered_at is null))
);
comment on table activity_definitions is 'One row an activity: its current version, spread out for SQL, and what is known of its schedule.';
comment on column activity_definitions.time_key is 'Expression and zone, or the instant: when it changes, covered_at becomes now, so that no past is run under a new expression.';
comment on column activity_definitions.covered_at is 'The latest nominal tick dealt with; only ever moved forward.';
create unique index activity_definitions_slug on activity_definitions (tenant_id, slug) where deleted_at is null;
create index activity_definitions_tenant on activity_definitions (tenant_id, id) where deleted_at is null;

create table activity_versions (
  activity_id uuid not null references activity_definitions (id),
  version integer not null,
  spec text not null check (json_typeof(spec::json) = 'object'),
  fingerprint text not null,
  created_by text not null,
  reason text,
  created_at timestamptz not null default statement_timestamp(),
  primary key (activity_id, version)
);
comment on table activity_versions is 'Append-only: every published version, byte for byte.';
create trigger activity_versions_append_only before update or delete or truncate on activity_versions
  for each statement execute function refuse_change();

create table activity_events (
  tenant_id text not null references tenants (id),
  key text not null check (key ~ '^[0-9a-f]{32}$'),
  source text not null,
  id text not null,
  type text not null,
  time timestamptz,
  origin text not null check (origin in ('cron', 'at', 'manual', 'api', 'webhook', 'bus', 'poll', 'task')),
  record text not null,
  received_at timestamptz not null default statement_timestamp(),
  primary key (tenant_id, key)
);
comment on table activity_events is 'Every event an activity could see, once by source and id; record is the CloudEvent as JSON text.';
create index activity_events_type on activity_events (tenant_id, type, received_at);
create index activity_events_received on activity_events using brin (received_at);

create table activity_runs (
  run_id uuid primary key,
  activity_id uuid not null references activity_definitions (id),
  tenant_id text not null,
  version_used integer not null,
  dedupe_key text not null,
  origin text not null,
  event_key text,
  scheduled_for timestamptz,
  window_start timestamptz,
  window_end timestamptz,
  missed_count integer not null default 0,
  fired_at timestamptz not null default statement_timestamp(),
  admitted_at timestamptz,
  finished_at timestamptz,
  status text not null check (status in
    ('queued', 'running', 'succeeded', 'partial', 'failed', 'missed', 'coalesced', 'duplicate', 'skipped', 'cancelled')),
  reason text,
  concurrency_key text,
  event jsonb not null,
  context_snapshot jsonb,
  tasks_planned integer,
  tasks_spawned integer not null default 0,
  tasks_done integer not null default 0,
  tasks_failed integer not null default 0,
  truncated boolean not null default false,
  dry_run boolean not null default false,
  workflow_id text not null,
  temporal_run_id text not null,
  error jsonb,
  constraint finished_says_when check ((status in ('queued', 'running')) = (finished_at is null)),
  unique (workflow_id, temporal_run_id)
);
comment on column activity_runs.dedupe_key is 'At most one effective run an activity and key; ticks and events that did not run keep their rows beside it.';
create unique index activity_runs_effective on activity_runs (activity_id, dedupe_key)
  where status not in ('missed', 'coalesced', 'duplicate', 'skipped');
create index activity_runs_activity on activity_runs (activity_id, fired_at desc);
create index activity_runs_scheduled on activity_runs (activity_id, scheduled_for) where scheduled_for is not null;
create index activity_runs_open on activity_runs (activity_id, concurrency_key, fired_at) where status in ('queued', 'running');

create table activity_context (
  run_id uuid not null references activity_runs (run_id),
  name text not null,
  value jsonb not null,
  primary key (run_id, name)
);
comment on table activity_context is 'Context sources as they were resolved, until they become the snapshot of the run.';

create table activity_tasks (
  task_id text primary key,
  run_id uuid not null references activity_runs (run_id),
  activity_id uuid not null,
  tenant_id text not null,
  version_used integer not null,
  event_key text,
  rule_id text not null,
  item_key text not null,
  position integer not null,
  type text not null,
  mode text not null check (mode in ('auto', 'human')),
  title text not null,
  params jsonb not null,
  labels text[] not null,
  unique_key text,
  unique_until timestamptz,
  status text not null check (status in ('planned', 'running', 'waiting', 'done', 'failed', 'suppressed', 'cancelled')),
  suppressed_by text,
  timeout_ms bigint not null,
  attempts_max integer not null,
  attempts integer not null default 0,
  workflow_id text,
  external_ref text,
  assignee text,
  due_at timestamptz,
  result jsonb,
  error jsonb,
  created_at timestamptz not null default statement_timestamp(),
  started_at timestamptz,
  finished_at timestamptz,
  constraint ended_says_when check ((status in ('planned', 'running', 'waiting')) = (finished_at is null)),
  unique (run_id, position)
);
comment on column activity_tasks.task_id is 'Also the Idempotency-Key sent to whoever carries the task out.';
create unique index activity_tasks_unique on activity_tasks (activity_id, unique_key)
  where unique_key is not null and unique_until is null and status in ('planned', 'running', 'waiting');
create index activity_tasks_unique_until on activity_tasks (activity_id, unique_key) where unique_until is not null;
create index activity_tasks_open on activity_tasks (tenant_id, created_at) where status in ('planned', 'running', 'waiting');

create table activity_outbox (
  seq bigint generated always as identity primary key,
  tenant_id text not null,
  key text not null unique,
  record text not null,
  created_at timestamptz not null default statement_timestamp()
);
comment on table activity_outbox is 'Events to be put on the bus, written with what caused them; a row goes when the bus has it.';
