-- Reason: events, stored once by id and kept for 90 days.
-- Lock: none on existing tables; only new ones are made.
-- Older processes: none exist.

create table events (
  event_id text primary key,
  seq bigint generated always as identity,
  trigger_id uuid not null,
  tenant_id text not null,
  type text not null,
  occurred_at timestamptz,
  stored_at timestamptz not null default statement_timestamp(),
  record text not null
);
comment on column events.record is 'The whole CloudEvent as JSON text, exactly as it came.';
create index events_trigger on events (trigger_id, seq);
create index events_tenant on events (tenant_id, seq);
-- Rows come in order of time, so a block-range index finds the old ones at next to no cost.
create index events_stored on events using brin (stored_at);
