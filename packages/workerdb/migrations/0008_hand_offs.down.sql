-- Reason: takes back 0008. Hand-offs must have ended: rows under way would stay between pipelines.
-- Lock: ACCESS EXCLUSIVE on the table.
-- Older workers: may keep running.
drop table hand_offs;
