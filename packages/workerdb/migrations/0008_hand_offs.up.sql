-- Reason: hand-offs of triggers between pipelines that are under way: which one, since when it is quiet, when it was sealed.
-- Lock: none on existing tables; only a new one is made.
-- Older workers: may keep running; they leave rows of another owner alone already.

create table hand_offs (
  shard smallint not null,
  trigger_id uuid not null,
  hand_off text not null check (octet_length(hand_off) <= 256),
  marked_at timestamptz not null,
  quiet_at timestamptz,
  sealed_at timestamptz,
  primary key (shard, trigger_id),
  constraint sealed_when_quiet check (sealed_at is null or quiet_at is not null)
);
comment on table hand_offs is 'Rows on their way between pipelines; each goes when its hand-off ends.';
comment on column hand_offs.hand_off is 'Workflow that moves it.';
comment on column hand_offs.quiet_at is 'Since when no live batch leases it; sealed once the longest call has passed since.';
comment on column hand_offs.sealed_at is 'What it remembers is on its way to the legacy pipeline.';
