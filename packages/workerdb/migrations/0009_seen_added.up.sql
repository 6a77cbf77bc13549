-- Reason: one new key rewrote all keys of a trigger, 8 KB of TOAST for 1,000 of them; now it is added beside them.
-- Lock: ACCESS EXCLUSIVE on the table, without rewriting it.
-- Older workers: may keep running; one that does not know the added keys may tell an event again, under its id.
alter table polling_trigger_states add column seen_added bytea not null default ''
  check (octet_length(seen_added) <= 1024 and octet_length(seen_added) % 8 = 0);
comment on column polling_trigger_states.seen is 'Concatenated 8-byte hashes of dedupe keys, newest last; seen_added follows them.';
comment on column polling_trigger_states.seen_added is 'Hashes added since seen was written, newest last; with seen at most 5,000. Commit joins them when they outgrow 64.';
