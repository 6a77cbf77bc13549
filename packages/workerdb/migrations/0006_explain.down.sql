comment on column source_limits.connection_h is null;
alter table source_limits drop column stepped_at;
drop trigger holds_are_logged on source_limits;
drop function log_hold();
drop table holds_log;
alter table poll_log drop column due_at, drop column claimed_at, drop column next_at, drop column batch_no, drop column found;
alter table polling_trigger_runs drop column event_gap_s;
