-- Reason: takes back 0007. Nothing is lost: the next tick scans.
-- Lock: ACCESS EXCLUSIVE on the table.
-- Older workers: may keep running; newer ones must be stopped.
drop table ranked_keys;
