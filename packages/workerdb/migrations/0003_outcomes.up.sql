-- Reason: what commit writes beside the row: held events, dead letters, lifecycle records, the poll log by day.
-- Lock: none on existing tables; only new ones are made.
-- Older workers: may keep running.

create table held_events (
  shard smallint not null,
  trigger_id uuid not null,
  event_id text not null,
  seq bigint generated always as identity,
  held_at timestamptz not null,
  event text not null,
  primary key (shard, trigger_id, event_id)
);
comment on table held_events is 'Undelivered events of sources that can not be asked again; broadcast sends them first, commit deletes them.';
comment on column held_events.event is 'The whole CloudEvent as JSON text, byte for byte.';

create table dead_letters (
  id bigint generated always as identity primary key,
  shard smallint not null,
  trigger_id uuid,
  at timestamptz not null,
  stage text not null check (stage in ('poll', 'broadcast', 'feed')),
  code text not null,
  reason text not null,
  event_id text,
  raw bytea not null,
  digest bytea not null unique
);
create index dead_letters_trigger on dead_letters (trigger_id, id);
comment on table dead_letters is 'Items refused for good, with their raw bytes. digest makes a repeated commit harmless.';

create table lifecycle_outbox (
  id bigint generated always as identity primary key,
  trigger_id uuid not null,
  config_version bigint not null,
  state text not null check (state in ('halted', 'resumed', 'warning')),
  code text not null,
  at timestamptz not null,
  offered_until timestamptz not null default '-infinity',
  acknowledged_at timestamptz
);
create index lifecycle_outbox_pending on lifecycle_outbox (id) where acknowledged_at is null;
create index lifecycle_outbox_gone on lifecycle_outbox (at) where state = 'halted' and code = 'receiver_gone';
comment on table lifecycle_outbox is 'What the engine decided, until the control plane has answered; kept 30 days, the mass-410 brake counts here.';

create table poll_log (
  at timestamptz not null,
  trigger_id uuid not null,
  lease_epoch integer not null,
  code smallint not null,
  outcome text not null,
  events integer not null default 0,
  deduplicated integer not null default 0,
  poll_ms integer,
  quiet_polls integer not null default 0,
  quiet_since timestamptz,
  reason text
) partition by range (at);
create index poll_log_trigger on poll_log (trigger_id, at);
create table poll_log_default partition of poll_log default;
comment on table poll_log is 'Polls worth a line: events, errors, a changed code, a fence, or a summary an hour. Empty polls only count in the row.';
comment on column poll_log.quiet_polls is 'Empty polls between quiet_since and this line.';

-- Makes the partitions of the coming days and drops those older than `keep` days. Runs with its owner's rights, so
-- that workers need none to create tables. Rows that waited in the default partition move along.
create function poll_log_days(ahead integer, keep integer) returns integer language plpgsql security definer
  set search_path from current as $$
declare
  day date;
  part text;
  dropped integer := 0;
begin
  perform set_config('lock_timeout', '3s', true);
  for day in select d::date from generate_series((statement_timestamp() at time zone 'UTC')::date,
      (statement_timestamp() at time zone 'UTC')::date + ahead, interval '1 day') d loop
    part := 'poll_log_' || to_char(day, 'YYYYMMDD');
    if to_regclass(part) is null then
      execute format('create table %I (like poll_log including defaults)', part);
      execute format('with moved as (delete from poll_log_default where at >= %L and at < %L returning *) insert into %I select * from moved',
        day::text || ' 00:00+00', (day + 1)::text || ' 00:00+00', part);
      execute format('alter table poll_log attach partition %I for values from (%L) to (%L)',
        part, day::text || ' 00:00+00', (day + 1)::text || ' 00:00+00');
    end if;
  end loop;
  for part in select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
      where i.inhparent = 'poll_log'::regclass and c.relname ~ '^poll_log_\d{8}$'
        and to_date(right(c.relname, 8), 'YYYYMMDD') < (statement_timestamp() at time zone 'UTC')::date - keep loop
    execute format('drop table %I', part);
    dropped := dropped + 1;
  end loop;
  return dropped;
end $$;
select poll_log_days(7, 30);
