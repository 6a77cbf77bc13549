-- Reason: a poll state tells which version of the trigger its poll was made with, so that a report of a poll that was in
-- flight is not taken for one made after a rewind.
-- Lock: ACCESS EXCLUSIVE on poll_states, for a moment (a column without a default).
-- Older processes: may keep running; their reports name no version and are taken by their time, as before.

alter table poll_states add column config_version bigint;
comment on column poll_states.config_version is 'Version of the trigger that the reporting poll was made with; null: the engine did not say.';
