-- Reason: back to reports without versions.
-- Lock: ACCESS EXCLUSIVE on poll_states, for a moment.
-- Older processes: may keep running.

alter table poll_states drop column config_version;
