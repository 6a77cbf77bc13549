-- Reason: takes 0008, the legacy pipeline's tables away. Move its triggers to v2 first: what it remembers goes with them.
-- Lock: ACCESS EXCLUSIVE on the dropped tables.
drop table legacy_dead_letters;
drop table legacy_held_events;
drop table legacy_triggers;
