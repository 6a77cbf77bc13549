-- Optional: the rights and settings of a role with which workers run. Run once by an administrator,
-- connected to the engine's database, after the first migration by the owner:
--   psql "$ADMIN_URL" -v worker=milkrun_worker -f roles.sql
-- Workers with the second role need `--no-migrate`. audit gets no UPDATE and no DELETE.
grant usage on schema public to :"worker";
grant select, insert, update, delete on polling_triggers, polling_trigger_runs, polling_trigger_states, batches,
  batch_fences, workers, source_limits, source_health, turns, held_events, lifecycle_outbox, tombstones,
  resync_marks, hand_offs, timer_shards, ranked_keys, holds_log to :"worker";
grant select, insert, delete on dead_letters to :"worker";
grant select, insert on poll_log, audit to :"worker";
grant select, update on fleet, change_feed to :"worker";
grant select on codes, milkrun_migrations to :"worker";
grant execute on function poll_log_days(integer, integer) to :"worker";
revoke execute on function poll_log_days(integer, integer) from public;
alter role :"worker" in database :"DBNAME" set plan_cache_mode = force_generic_plan;
alter role :"worker" in database :"DBNAME" set jit = off;
alter role :"worker" in database :"DBNAME" set work_mem = '32MB';
alter role :"worker" in database :"DBNAME" set random_page_cost = 1.1;
alter role :"worker" in database :"DBNAME" set max_parallel_workers_per_gather = 0;
alter role :"worker" in database :"DBNAME" set statement_timeout = '60s';
alter role :"worker" in database :"DBNAME" set lock_timeout = '20s';
alter role :"worker" in database :"DBNAME" set idle_in_transaction_session_timeout = '30s';
