-- Reason: takes back 0003. All stored events are lost.
-- Lock: ACCESS EXCLUSIVE on the table.
-- Older processes: must be stopped.
drop table events;
