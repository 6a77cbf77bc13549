-- Reason: takes back 0001. Everything the engine remembers is lost; the feed and pollState rebuild it.
-- Lock: ACCESS EXCLUSIVE on the three tables.
-- Older workers: must be stopped.
drop function next_slot(timestamptz, integer, integer);
drop function hash64(text, text);
drop function hash32(text);
drop table polling_trigger_states;
drop table polling_trigger_runs;
drop table polling_triggers;
drop table codes;
