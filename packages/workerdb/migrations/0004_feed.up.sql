-- Reason: where the change feed stands, tombstones, the marks of a full resync, and the audit trail.
-- Lock: none on existing tables; only new ones are made.
-- Older workers: may keep running.

create table change_feed (
  id smallint primary key default 1 check (id = 1),
  cursor text,
  moved_at timestamptz,
  resync_token text,
  resync_started_at timestamptz
);
insert into change_feed default values;
comment on column change_feed.cursor is 'Compared and set with each page, in the page''s own transaction.';

create table tombstones (
  trigger_id uuid primary key,
  config_version bigint not null,
  deleted_at timestamptz not null
);
comment on table tombstones is 'Deleted triggers, 30 days: an older upsert must not bring them back.';

create table resync_marks (
  shard smallint not null,
  trigger_id uuid not null,
  primary key (shard, trigger_id)
);
comment on table resync_marks is 'Triggers named by the feed since the running full resync began.';

create table audit (
  id bigint generated always as identity primary key,
  at timestamptz not null default statement_timestamp(),
  actor text not null,
  verb text not null,
  subject text not null,
  detail jsonb not null default '{}'
);
comment on table audit is 'Append-only: what people and verbs did.';

create function refuse_change() returns trigger language plpgsql as $$
begin
  raise exception 'audit is append-only';
end $$;
create trigger audit_is_append_only before update or delete or truncate on audit
  for each statement execute function refuse_change();
