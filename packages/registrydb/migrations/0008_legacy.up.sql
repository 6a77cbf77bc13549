-- Reason: the legacy pipeline, one workflow a trigger: what it remembers, and which pipeline owns a trigger.
-- Lock: none on existing tables; only new ones are made.
-- Older processes: may keep running; they leave these tables alone.

create table legacy_triggers (
  trigger_id uuid primary key references triggers (id),
  owner text not null check (owner in ('legacy', 'to_v2', 'v2', 'to_legacy')),
  ownership_epoch integer not null default 0 check (ownership_epoch >= 0),
  owner_since timestamptz not null default statement_timestamp(),
  hand_off text,
  sealed boolean not null default false,
  quiet_at timestamptz,
  next_poll_at timestamptz default statement_timestamp(),
  nudged_at timestamptz,
  applied_version bigint not null default 0,
  prime_from timestamptz,
  poll_epoch integer not null default 0 check (poll_epoch >= 0),
  last_polled_at timestamptz,
  last_ok_at timestamptz,
  last_code text,
  last_reason text,
  failure_count integer not null default 0,
  poison_count integer not null default 0,
  primed boolean not null default false,
  cursor text check (octet_length(cursor) <= 16384),
  seen bytea not null default '' check (octet_length(seen) <= 40960 and octet_length(seen) % 8 = 0),
  version_used text,
  halted_code text,
  halted_at timestamptz,
  halted_version bigint,
  constraint a_hand_off_is_under_way check ((owner in ('to_v2', 'to_legacy')) = (hand_off is not null)),
  constraint only_a_hand_off_seals check (not sealed or owner = 'to_v2'),
  constraint halt_has_code_and_time check ((halted_code is null) = (halted_at is null))
);
comment on table legacy_triggers is 'Triggers that the legacy pipeline polls or has polled; a trigger without a row is owned by v2.';
comment on column legacy_triggers.owner is 'Who may poll it. The legacy pipeline starts polls as legacy only, and commits as legacy, or as to_v2 until sealed.';
comment on column legacy_triggers.ownership_epoch is 'Raised by each change of owner, the same in workerdb; a write under an older one is refused.';
comment on column legacy_triggers.hand_off is 'Workflow that moves it.';
comment on column legacy_triggers.sealed is 'Its memory is on its way to v2: nothing writes it any more.';
comment on column legacy_triggers.quiet_at is 'Since when no legacy workflow of it runs; sealed once the longest call has passed since.';
comment on column legacy_triggers.nudged_at is 'When its workflow was last started or woken.';
comment on column legacy_triggers.applied_version is 'config_version whose instructions (rewind, resume, poll now) have been carried out.';
comment on column legacy_triggers.prime_from is 'A prime tells items from here on; null: the trigger''s created_at and since.';
comment on column legacy_triggers.poll_epoch is 'Raised by each commit, which must find it as its poll read it: commits of two attempts never both count.';
comment on column legacy_triggers.cursor is 'JSON text, opaque.';
comment on column legacy_triggers.seen is 'Concatenated 8-byte hashes of dedupe keys, newest last.';
comment on column legacy_triggers.halted_version is 'config_version it was halted at; a later lifted_version of the trigger ends the halt.';
alter table legacy_triggers alter column seen set storage external;
create index legacy_triggers_owner on legacy_triggers (owner, trigger_id);

create table legacy_held_events (
  trigger_id uuid not null,
  event_id text not null,
  seq bigint generated always as identity,
  event text not null,
  primary key (trigger_id, event_id)
);
comment on table legacy_held_events is 'Undelivered events of sources that can not be asked again; the next poll sends them first.';

create table legacy_dead_letters (
  id bigint generated always as identity primary key,
  trigger_id uuid not null,
  at timestamptz not null default statement_timestamp(),
  stage text not null,
  code text not null,
  reason text not null,
  event_id text,
  raw bytea not null,
  digest bytea not null unique
);
comment on table legacy_dead_letters is 'Items refused for good, with their raw bytes.';
