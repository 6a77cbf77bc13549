-- Reason: takes back 0002. All triggers, connections and the feed are lost.
-- Lock: ACCESS EXCLUSIVE on the tables.
-- Older processes: must be stopped.
drop table trigger_lifecycle;
drop table poll_states;
drop table feed_state;
drop table trigger_changes;
drop sequence trigger_changes_seq;
drop table triggers;
drop table connections;
