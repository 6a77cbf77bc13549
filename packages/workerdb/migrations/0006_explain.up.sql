-- Reason: what explain tells of a poll (due, claimed by, next), what kept due triggers waiting, and the usual gap between
-- two events of a trigger, against which silence is measured.
-- Lock: ACCESS EXCLUSIVE on polling_trigger_runs and poll_log for an instant each: the columns are added without a rewrite.
-- Older workers: may keep running; their polls leave the new columns empty.

alter table polling_trigger_runs add column event_gap_s integer check (event_gap_s >= 0);
comment on column polling_trigger_runs.event_gap_s is 'Usual seconds between two polls that found events: a moving average; null before the second.';

alter table poll_log
  add column due_at timestamptz,
  add column claimed_at timestamptz,
  add column next_at timestamptz,
  add column batch_no bigint,
  add column found integer;
comment on column poll_log.due_at is 'When it had been due.';
comment on column poll_log.claimed_at is 'When the batch that polled it was claimed.';
comment on column poll_log.found is 'Items in the answers; null: those delivered and those known already.';
comment on column poll_log.next_at is 'The next poll, as this one left it; null: halted for good.';

create table holds_log (
  id bigint generated always as identity primary key,
  timer_shard smallint,
  toolkit_h integer,
  connection_h bigint,
  since timestamptz not null,
  until timestamptz not null,
  reason text not null check (reason in ('rate_limited', 'source_down', 'maintenance', 'operator', 'backoff', 'breaker'))
);
create index holds_log_until on holds_log (until);
comment on table holds_log is 'What kept due triggers waiting, once it is over; 30 days. What is in force stands in source_limits and timer_shards.';
comment on column holds_log.timer_shard is 'A whole timer shard waited (backoff, breaker); null: a source, by toolkit_h and connection_h as in source_limits.';

create function log_hold() returns trigger language plpgsql as $$
begin
  insert into holds_log (toolkit_h, connection_h, since, until, reason)
  values (old.toolkit_h, old.connection_h, old.made_at,
    case when old.per_minute is null then least(old.not_before, statement_timestamp()) else statement_timestamp() end, old.reason);
  return null;
end $$;
create trigger holds_are_logged after delete on source_limits for each row execute function log_hold();
alter table source_limits add column stepped_at timestamptz not null default '-infinity';
comment on column source_limits.stepped_at is 'When the recovery of a source_down last let more through.';
comment on column source_limits.connection_h is '0: the whole toolkit; 2: the tenant whose hash32 stands in toolkit_h (a real connection''s is odd); both 0: everything.';
