-- Reason: who may call: tenants, API keys, idempotency of writes, and the audit trail.
-- Lock: none on existing tables; only new ones are made.
-- Older processes: none exist.

create table tenants (
  id text primary key check (char_length(id) between 1 and 128),
  name text not null,
  created_at timestamptz not null default statement_timestamp()
);

create table api_keys (
  id text primary key,
  tenant_id text not null references tenants (id),
  name text not null,
  hash bytea not null check (octet_length(hash) = 32),
  scopes text[] not null,
  created_at timestamptz not null default statement_timestamp(),
  expires_at timestamptz,
  revoked_at timestamptz,
  last_used_at timestamptz
);
comment on column api_keys.hash is 'HMAC-SHA-256 of the whole key under the pepper; the key itself is shown once and never stored.';
create index api_keys_tenant on api_keys (tenant_id, created_at);

create table idempotency_keys (
  tenant_id text not null,
  key text not null,
  request_hash bytea not null,
  -- Null while the first call is still running.
  status integer,
  answer text,
  etag text,
  created_at timestamptz not null default statement_timestamp(),
  primary key (tenant_id, key)
);
create index idempotency_keys_created on idempotency_keys (created_at);

create table audit (
  id bigint generated always as identity primary key,
  at timestamptz not null default statement_timestamp(),
  tenant_id text not null,
  actor text not null,
  action text not null,
  object_kind text not null,
  object_id text not null,
  reason text,
  detail text
);
comment on table audit is 'Append-only: who changed what, when and why. No secrets, no credentials.';
create index audit_object on audit (tenant_id, object_kind, object_id, id);

create function refuse_change() returns trigger language plpgsql as
  $$ begin raise exception '% is append-only', tg_table_name using errcode = '42501'; end $$;
create trigger audit_append_only before update or delete or truncate on audit
  for each statement execute function refuse_change();
