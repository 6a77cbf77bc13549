-- Reason: what a tick ranked beyond the places there were, so that the next ticks need no scan of all rows. Unlogged: it is
-- made anew every few seconds, and after a crash the next tick scans.
-- Lock: none on existing tables; only a new one is made.
-- Older workers: may keep running; they scan at each tick and never read it.

create unlogged table ranked_keys (
  timer_shard smallint primary key,
  taken integer not null,
  due integer not null,
  ranked_at timestamptz not null,
  oldest timestamptz,
  next timestamptz,
  key_shards smallint[] not null,
  key_epochs integer[] not null,
  key_ids uuid[] not null
) with (fillfactor = 50);
alter table ranked_keys alter column key_shards set storage external;
alter table ranked_keys alter column key_epochs set storage external;
alter table ranked_keys alter column key_ids set storage external;
comment on table ranked_keys is 'Due rows in the order of their rank that no batch has taken yet; used for 5 s, then ranked again.';
comment on column ranked_keys.taken is 'How many of the keys, from the first, batches have taken.';
comment on column ranked_keys.due is 'Due rows that the scan left behind: these keys and what lay beyond them.';
comment on column ranked_keys.oldest is 'Earliest due time at the scan.';
comment on column ranked_keys.next is 'When the next row falls due, as of the scan.';
