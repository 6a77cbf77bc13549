-- Reason: takes back 0009; what was added is joined first.
-- Lock: ACCESS EXCLUSIVE on the table.
-- Older workers: may keep running.
update polling_trigger_states set seen = seen || seen_added where seen_added <> '';
alter table polling_trigger_states drop column seen_added;
comment on column polling_trigger_states.seen is 'Concatenated 8-byte hashes of dedupe keys, newest last, at most 5,000.';
