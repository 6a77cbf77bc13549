/** Named SQL connections of the operator: every query runs in a read-only transaction with a time-out of its own. */
import { OutboundFailed, type SqlReader } from '@milkrun/activity-core';
import type { Secret } from '@milkrun/core';
import postgres, { type Sql } from 'postgres';

/** Connection trouble, lack of resources, shutdown, conflict: another try may do better. Everything else is the query's fault. */
const WORTH_ANOTHER_TRY = /^(08|53|57|40)/;

/** `setting`: SQL_CONNECTIONS, `name=url` separated by spaces. */
export function createSqlReader(setting: Secret | undefined): SqlReader & { close(): Promise<void> } {
  const entries = (setting?.reveal() ?? '').split(' ').filter((entry) => entry !== '');
  const connections = new Map(
    entries.map((entry) => [entry.slice(0, entry.indexOf('=')), entry.slice(entry.indexOf('=') + 1)]),
  );
  const pools = new Map<string, Sql>();
  function poolOf(name: string): Sql {
    const url = connections.get(name);
    if (url === undefined) throw new Error(`there is no SQL connection ${name}`);
    const known = pools.get(name);
    if (known !== undefined) return known;
    const connection = { application_name: 'milkrun-activities' };
    const made = postgres(url, { max: 4, connect_timeout: 10, idle_timeout: 60, onnotice: () => {}, connection });
    pools.set(name, made);
    return made;
  }
  return {
    has: (name) => connections.has(name),
    async query({ connection, query, params, rowsMax, timeoutMs }) {
      const reading = poolOf(connection).begin('read only', async (tx) => {
        await tx`select set_config('statement_timeout', ${String(timeoutMs)}, true)`;
        // One statement: several would be refused by the extended protocol, which parameters demand.
        const rows = await tx.unsafe(query, [...params] as never[], { prepare: true });
        if (rows.length > rowsMax) throw new Error(`the query gave ${rows.length} rows; at most ${rowsMax} are taken`);
        return JSON.parse(JSON.stringify(rows)) as unknown[];
      });
      try {
        return await reading;
      } catch (error) {
        const { code, message } = error as { code?: unknown; message: string };
        const isSqlState = typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code);
        throw new OutboundFailed(message, !isSqlState || WORTH_ANOTHER_TRY.test(code), { cause: error });
      }
    },
    async close() {
      await Promise.all([...pools.values()].map((pool) => pool.end({ timeout: 5 })));
    },
  };
}
