-- Reason: takes back 0001. All keys stop working and the audit trail is lost.
-- Lock: ACCESS EXCLUSIVE on the tables.
-- Older processes: must be stopped.
drop table audit;
drop function refuse_change();
drop table idempotency_keys;
drop table api_keys;
drop table tenants;
