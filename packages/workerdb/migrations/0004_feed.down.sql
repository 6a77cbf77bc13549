-- Reason: takes back 0004. The feed is read from its beginning again; the audit trail is lost: export it first.
-- Lock: ACCESS EXCLUSIVE on the tables.
-- Older workers: must be stopped.
drop table audit;
drop function refuse_change();
drop table resync_marks;
drop table tombstones;
drop table change_feed;
