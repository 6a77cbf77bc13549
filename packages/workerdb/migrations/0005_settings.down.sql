-- Reason: takes back the planner settings.
-- Lock: none on tables.
-- Older workers: may keep running.

do $$
declare
  setting text;
begin
  foreach setting in array array['plan_cache_mode', 'jit', 'work_mem', 'random_page_cost', 'max_parallel_workers_per_gather']
  loop
    execute format('alter database %I reset %s', current_database(), setting);
  end loop;
exception when insufficient_privilege then
  raise notice 'the settings of this database can be changed by its owner only';
end $$;
