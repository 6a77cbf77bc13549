-- Reason: planner settings for every session of this database. Each statement is proved with its generic plan; planning the
-- commit anew (some forty relations of 64 partitions) costs a quarter of its time. `alter database` and not a start-up
-- parameter: poolers refuse those.
-- Lock: none on tables.
-- Older workers: may keep running; new connections take the settings.

do $$
declare
  setting text;
begin
  foreach setting in array array['plan_cache_mode = force_generic_plan', 'jit = off', 'work_mem = ''32MB''', 'random_page_cost = 1.1',
    'max_parallel_workers_per_gather = 0']
  loop
    execute format('alter database %I set %s', current_database(), setting);
  end loop;
exception when insufficient_privilege then
  raise notice 'the settings of this database can be changed by its owner only: run roles/roles.sql';
end $$;
