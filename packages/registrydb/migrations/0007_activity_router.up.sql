-- Reason: which events an activity waits for, what became of each event, and dead letters.
-- Lock: ACCESS EXCLUSIVE on activity_definitions and activity_events for a moment.
-- Older processes: may keep running; what they publish is matched once it is published again.

alter table activity_definitions add column event_types text[] not null default '{}';
update activity_definitions d set event_types = coalesce((
  select array_agg(distinct e -> 'event' ->> 'type')
  from activity_versions v, json_array_elements(v.spec::json -> 'on') e
  where v.activity_id = d.id and v.version = d.version and e -> 'event' is not null), '{}');
create index activity_definitions_event_types on activity_definitions using gin (event_types) where deleted_at is null;

alter table activity_events add column matches jsonb;
comment on column activity_events.matches is 'For each activity that waits for this type: matched or not, and why. Null: not routed yet.';

alter table activity_outbox drop constraint activity_outbox_key_key, add constraint activity_outbox_key unique (tenant_id, key);

create table dead_letters (
  id uuid primary key,
  tenant_id text not null,
  stage text not null check (stage in ('decode', 'conflict', 'loop', 'start')),
  event_key text,
  raw bytea not null,
  headers jsonb not null default '{}',
  stream_seq bigint,
  error text not null,
  tries integer not null,
  first_at timestamptz not null default statement_timestamp(),
  last_at timestamptz not null default statement_timestamp(),
  resolved_at timestamptz,
  resolution text check (resolution in ('retried', 'discarded')),
  resolved_by text,
  unique (tenant_id, stage, stream_seq)
);
comment on column dead_letters.raw is 'The message exactly as it came.';
create index dead_letters_open on dead_letters (tenant_id, id) where resolved_at is null;
