-- Reason: the three tables that hold a trigger: what the user wants, when and by whom it is polled, what it remembers.
-- Lock: none on existing tables; only new ones are made.
-- Older workers: none exist.

create table codes (
  no smallint primary key,
  code text not null unique
);
comment on table codes is 'Short forms of verdict and halt codes; filled by the migrator from the engine''s own list.';

create table polling_triggers (
  shard smallint not null check (shard between 0 and 63),
  trigger_id uuid not null,
  config_version bigint not null,
  created_at timestamptz not null,
  since timestamptz,
  tenant_id text not null check (octet_length(tenant_id) between 1 and 512),
  toolkit text not null check (octet_length(toolkit) between 1 and 512),
  slug text not null,
  version_wanted text not null,
  connection_id text not null check (octet_length(connection_id) <= 512),
  poll_policy jsonb not null,
  config jsonb not null,
  primary key (shard, trigger_id)
) partition by list (shard);
comment on table polling_triggers is 'What the user wants. Written by the change feed only.';
comment on column polling_triggers.shard is 'Storage shard: first two bytes of sha256(trigger id) mod 64, for ever.';
comment on column polling_triggers.config_version is 'Version of the record in the control plane; a change is applied only if it is newer.';
comment on column polling_triggers.since is 'A prime emits items dated after this instant; null: after created_at.';
comment on column polling_triggers.poll_policy is '{dedupe, overlapSeconds?, repeatable}.';

-- Column order is fixed and filtering first, then what every poll changes, then what changes rarely: of an updated row
-- PostgreSQL logs what lies between the first and the last changed byte. primed and version_used stand here and not
-- with the state: claim answers both, and here they cost it no third probe; neither changes with an ordinary poll.
create table polling_trigger_runs (
  shard smallint not null check (shard between 0 and 63),
  enabled boolean not null,
  owner "char" not null check (owner in ('v', 'l', 'i', 'o')),
  interval_s integer not null check (interval_s > 0),
  trigger_id uuid not null,
  phase_s integer not null check (phase_s >= 0 and phase_s < interval_s),
  tenant_h integer not null,
  toolkit_h integer not null,
  def_bytes integer not null,
  connection_h bigint not null,
  next_poll_at timestamptz,
  lease_epoch integer not null default 0 check (lease_epoch >= 0),
  last_committed_epoch integer not null default 0,
  lease_owner bigint,
  last_polled_at timestamptz,
  last_ok_at timestamptz,
  quiet_since timestamptz,
  failure_count smallint not null default 0 check (failure_count >= 0),
  poison_count smallint not null default 0 check (poison_count >= 0),
  quiet_polls integer not null default 0 check (quiet_polls >= 0),
  last_code smallint,
  primed boolean not null default false,
  halted_probe boolean not null default false,
  state_bytes integer not null default 0,
  ownership_epoch integer not null default 0,
  halted_code smallint,
  last_event_at timestamptz,
  poll_requested_at timestamptz,
  halted_at timestamptz,
  ownership_since timestamptz,
  version_used text,
  primary key (shard, trigger_id),
  constraint committed_epochs_were_leased check (last_committed_epoch <= lease_epoch),
  constraint halt_has_code_and_time check ((halted_code is null) = (halted_at is null)),
  constraint only_credential_halts_probe check (halted_probe = false or halted_code is not null),
  constraint halted_rows_are_not_due check (halted_code is null or halted_probe or next_poll_at is null),
  constraint disabled_rows_are_not_leased check (enabled or lease_owner is null)
) partition by list (shard);
comment on table polling_trigger_runs is 'When and by whom a trigger is polled. Narrow and hot; no index but the key, so that claim and commit are HOT.';
comment on column polling_trigger_runs.enabled is 'The user''s wish; the engine''s verdict is halted_code.';
comment on column polling_trigger_runs.owner is 'Pipeline that polls it: v = v2, l = legacy, i = on its way to v2, o = on its way to legacy.';
comment on column polling_trigger_runs.phase_s is 'Offset of its slots within the interval, from the trigger id: spreads the herd.';
comment on column polling_trigger_runs.tenant_h is 'hash32(tenant_id).';
comment on column polling_trigger_runs.toolkit_h is 'hash32(toolkit).';
comment on column polling_trigger_runs.def_bytes is 'Bytes a claim returns for it; kept by the feed.';
comment on column polling_trigger_runs.connection_h is 'hash64(tenant_id, connection_id); never 0.';
comment on column polling_trigger_runs.next_poll_at is 'Due time; null when halted for good or disabled.';
comment on column polling_trigger_runs.lease_epoch is 'Raised by claim and by every fencing change, never lowered.';
comment on column polling_trigger_runs.lease_owner is 'batches.batch_no; leased only while that batch is live, so it may name an ended one.';
comment on column polling_trigger_runs.quiet_polls is 'Empty polls since the last poll_log row.';
comment on column polling_trigger_runs.last_code is 'codes.no of the last commit.';
comment on column polling_trigger_runs.halted_probe is 'The halt is for credentials: next_poll_at is the time of its probe.';
comment on column polling_trigger_runs.state_bytes is 'Bytes of cursor and seen keys; kept by commit and feed.';
comment on column polling_trigger_runs.version_used is 'Connector version that made the cursor.';

create table polling_trigger_states (
  shard smallint not null check (shard between 0 and 63),
  trigger_id uuid not null,
  cursor jsonb,
  seen bytea not null default '' check (octet_length(seen) <= 40960 and octet_length(seen) % 8 = 0),
  primary key (shard, trigger_id)
) partition by list (shard);
comment on table polling_trigger_states is 'What a trigger remembers. Written only when changed.';
comment on column polling_trigger_states.cursor is 'Opaque to the engine, at most 16 KiB (checked where it comes in).';
comment on column polling_trigger_states.seen is 'Concatenated 8-byte hashes of dedupe keys, newest last, at most 5,000.';

-- Hashes do not compress: no attempt is made. Set on the parent before the partitions are made, which copy it.
alter table polling_trigger_states alter column seen set storage external;

do $$
begin
  for n in 0..63 loop
    execute format('create table polling_triggers_%s partition of polling_triggers for values in (%s) with (fillfactor = 90)', n, n);
    execute format('create table polling_trigger_runs_%s partition of polling_trigger_runs for values in (%s) with (fillfactor = 50)', n, n);
    execute format('create table polling_trigger_states_%s partition of polling_trigger_states for values in (%s) with (fillfactor = 50)', n, n);
  end loop;
end $$;

-- Short forms. md5 and not hashtext: the same in every version of PostgreSQL, so a dump can be restored anywhere.
create function hash32(value text) returns integer language sql immutable strict parallel safe
  return ('x' || left(md5(value), 8))::bit(32)::integer;
create function hash64(tenant text, value text) returns bigint language sql immutable strict parallel safe
  return ('x' || left(md5(octet_length(tenant) || ':' || tenant || value), 16))::bit(64)::bigint | 1;

-- The first slot of a trigger after an instant: no drift, no herd.
create function next_slot(after timestamptz, interval_s integer, phase_s integer) returns timestamptz
  language sql immutable parallel safe
  return to_timestamp((floor((extract(epoch from after)::float8 - phase_s) / interval_s) + 1) * interval_s + phase_s);
