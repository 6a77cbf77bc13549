-- Reason: batches with their planned keys and leases, the fence list, timer shards, workers, limits of sources.
-- Lock: none on existing tables; only new ones are made.
-- Older workers: may keep running.

create table batches (
  batch_no bigint generated always as identity,
  timer_shard smallint not null,
  hop smallint not null default 0,
  open integer not null default 0 check (open >= 0),
  entries integer,
  planned integer not null,
  started_at timestamptz not null,
  claimed_at timestamptz,
  expires_at timestamptz,
  ended_at timestamptz,
  step text not null default 'planned'
    check (step in ('planned', 'claim', 'auth', 'poll', 'broadcast', 'commit', 'backoff')),
  batch_id text primary key check (octet_length(batch_id) <= 128),
  key_shards smallint[],
  key_epochs integer[],
  key_ids uuid[],
  constraint a_lease_is_claimed check ((claimed_at is null) = (expires_at is null))
) with (fillfactor = 50);
alter table batches alter column key_shards set storage external;
alter table batches alter column key_epochs set storage external;
alter table batches alter column key_ids set storage external;
create unique index batches_batch_no on batches (batch_no);
create index batches_open on batches (timer_shard) where ended_at is null;
comment on table batches is 'Which batches exist, what was planned for them, and the one lease that all their rows share.';
comment on column batches.batch_no is 'Short form of batch_id, in polling_trigger_runs.lease_owner.';
comment on column batches.open is 'Entries without a result.';
comment on column batches.expires_at is 'End of the lease. An expired lease is never revived.';
comment on column batches.ended_at is 'Set once; frees whatever the batch still owned.';
comment on column batches.key_epochs is 'lease_epoch of each key when it was planned; claim takes a row only at that epoch.';

create table batch_fences (
  batch_no bigint not null,
  shard smallint not null,
  trigger_id uuid not null,
  deleted boolean not null default false,
  primary key (batch_no, shard, trigger_id)
);
comment on table batch_fences is 'Rows taken away from a live batch, written by whoever fences. Saves polls; commit''s own fence is the safety.';

create table timer_shards (
  timer_shard smallint primary key check (timer_shard >= 0),
  serves smallint[] not null,
  backoff_level smallint not null default 0,
  wake_at timestamptz not null default '-infinity',
  ticked_at timestamptz,
  backoff_until timestamptz
) with (fillfactor = 50);
comment on column timer_shards.serves is 'Storage shards it ticks; together the timer shards serve each of the 64 once.';
comment on column timer_shards.wake_at is 'Recorded wake: whoever writes an earlier next_poll_at arms the timer shard after its commit.';
comment on column timer_shards.backoff_until is 'Nothing is planned before: a forced batch has released rows. 30 s doubling to 5 min, reset by a good batch.';

create table workers (
  worker_id text primary key check (octet_length(worker_id) <= 256),
  width integer not null check (width > 0),
  started_at timestamptz not null,
  seen_at timestamptz not null
) with (fillfactor = 50);
comment on column workers.seen_at is 'Last heartbeat; live while younger than 45 s.';

create table source_limits (
  toolkit_h integer not null,
  connection_h bigint not null,
  per_minute integer check (per_minute > 0),
  not_before timestamptz not null,
  made_at timestamptz not null,
  reason text not null check (reason in ('rate_limited', 'source_down', 'maintenance', 'operator')),
  toolkit text not null,
  tenant_id text not null,
  connection_id text not null,
  primary key (toolkit_h, connection_h)
);
comment on table source_limits is 'Holds on a provider (connection_h 0), one connection of it, or everything (both 0): for all workers, kept over restarts.';
comment on column source_limits.per_minute is 'Claim takes no more than this of the pair and moves not_before by taken x 60 s / per_minute.';

create table source_health (
  toolkit_h integer not null,
  slot bigint not null,
  polls integer not null,
  failures integer not null,
  primary key (toolkit_h, slot)
) with (fillfactor = 50);
comment on table source_health is 'Polls and connector failures of a toolkit by slots of ten seconds; the last six decide on source_down.';

create table turns (
  name text primary key,
  worker_id text not null,
  until timestamptz not null
);
comment on table turns is 'Who runs a loop that one worker at a time runs; a turn outlives no crash longer than its hold.';

create table fleet (
  id smallint primary key default 1 check (id = 1),
  polled bigint not null default 0,
  counted_at timestamptz,
  braked boolean not null default false,
  brake_reset_at timestamptz not null default '-infinity'
);
insert into fleet default values;
comment on column fleet.polled is 'Polled triggers as the liveness loop last counted.';
comment on column fleet.braked is 'The mass-410 brake is on.';
comment on column fleet.brake_reset_at is 'Halts before it no longer count: an operator has looked at them.';
