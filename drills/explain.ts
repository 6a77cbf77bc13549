/**
 * A ledger is kept where the polls arrive: of each trigger every answer in turn, with its items. Then the engine is asked to
 * explain random triggers up to random moments, and what it says is compared line by line: order, empty polls summed up,
 * found, deduplicated, delivered, code, times in order, and what a late one had waited for.
 */
import { systemClock } from '@milkrun/core';
import { insertFleet, type Rig, startRig, verdicts, watch } from './lib/fleet-rig.ts';
import { type Drill, type DrillInput, type DrillResult, integerFrom } from './lib/index.ts';
import { randomFrom } from './lib/random.ts';

const INTERVAL_S = 4;
const LANES = 8;
/** Held for a while in the middle of the run. */
const HELD_TENANT = 'source-3';
const HELD_S = 8;

interface Entry {
  /** Milliseconds since the epoch at which the poll arrived. */
  readonly at: number;
  readonly code: string;
  readonly found: number;
  readonly deduplicated: number;
}

interface Line {
  readonly what: string;
  readonly polls?: number;
  readonly from?: string;
  readonly to?: string;
  readonly at?: string;
  readonly dueAt?: string;
  readonly claimedAt?: string;
  readonly claimedBy?: string;
  readonly nextAt?: string | null;
  readonly code?: string;
  readonly found?: number;
  readonly deduplicated?: number;
  readonly delivered?: number;
  readonly skipped?: readonly { readonly reason: string }[];
}

export const drill: Drill = {
  name: 'explain',
  about: 'What explain says of any trigger up to any moment is what happened.',
  defaults: { count: 1000 },
  fullCount: 10_000,
  flags: { seconds: 'how long it polls; default 60', triggers: 'default 1500' },
  async run({ count, seed, log, flags }: DrillInput): Promise<DrillResult> {
    const seconds = integerFrom('seconds', flags.seconds, 60, 30);
    const triggers = integerFrom('triggers', flags.triggers, 1500, 20);
    const random = randomFrom(seed);
    const judge = verdicts(log);
    const rig = await startRig({
      workers: 0,
      settings: { DISPATCH_TICK: '1s', BATCH_SIZE: '500' },
      log,
      // A connection each: a rate limit concerns nobody else.
      fill: (sql) =>
        insertFleet(sql, [
          { count: triggers, toolkit: 'source', tenants: 10, connections: triggers, intervalSeconds: INTERVAL_S },
        ]),
    });
    try {
      const ledger = new Map<string, Entry[]>();
      const told = new Map<string, string[]>();
      let faults = 0;
      rig.upstream.onPoll = ({ triggerId, cursor, at }) => {
        const keys = told.get(triggerId) ?? [];
        told.set(triggerId, keys);
        const entries = ledger.get(triggerId) ?? [];
        ledger.set(triggerId, entries);
        const draw = random();
        if (draw < 0.02) {
          faults += 1;
          const [kind, code] =
            draw < 0.01
              ? (['connector', 'poll.connector_error'] as const)
              : (['rate_limited', 'poll.rate_limited'] as const);
          entries.push({ at, code, found: 0, deduplicated: 0 });
          return {
            body: {
              error: { class: kind, message: 'as drawn', ...(kind === 'rate_limited' ? { retryAfter: 2 } : {}) },
            },
          };
        }
        const fresh = draw < 0.3 ? 1 + Math.floor(random() * 3) : 0;
        const again = draw < 0.4 ? keys.slice(-Math.floor(random() * 3) || keys.length) : [];
        const added = Array.from({ length: fresh }, (_, n) => `k${keys.length + n}`);
        keys.push(...added);
        entries.push({ at, code: 'ok', found: fresh + again.length, deduplicated: again.length });
        return { body: { events: [...again, ...added].map((key) => ({ key, data: { key } })), cursor } };
      };
      await rig.startWorker();
      await watch(
        'every trigger to be polled',
        { everyMs: 200, withinMs: 60_000 },
        async () => ledger.size,
        (n) => n === triggers,
      );
      const startedAt = Date.now();
      await systemClock.sleep((seconds * 1000) / 2);
      await rig.engine('/holds', { tenantId: HELD_TENANT, seconds: HELD_S });
      const [heldFrom, heldTo] = [Date.now(), Date.now() + HELD_S * 1000];
      await systemClock.sleep((seconds * 1000) / 2);
      await rig.engine('/holds', { all: true, seconds: 3600 });
      await watch(
        'what is under way to end',
        { everyMs: 200, withinMs: 120_000 },
        async () =>
          (
            await rig.sql<{ n: number }[]>`select count(*)::int as n from batches where ended_at is null and
          (expires_at > statement_timestamp() or (claimed_at is null and started_at > statement_timestamp() - interval '60 s'))`
          )[0]?.n ?? 0,
        (n) => n === 0,
      );
      const endedAt = Date.now();
      const held = new Set(
        (
          await rig.sql<
            { id: string }[]
          >`select trigger_id as id from polling_triggers where tenant_id = ${HELD_TENANT}`
        ).map(({ id }) => id),
      );
      const ids = [...ledger.keys()];
      let lines = 0;
      let waits = 0;
      let asked = 0;
      const lane = async (): Promise<void> => {
        while (asked < count) {
          asked += 1;
          const triggerId = ids[Math.floor(random() * ids.length)] as string;
          const moment = startedAt + random() * (endedAt - startedAt);
          const { timeline } = await explain(rig, triggerId, moment);
          lines += timeline.length;
          const problem = differenceOf(ledger.get(triggerId) ?? [], timeline.toReversed(), moment);
          if (problem !== undefined) judge.missed(`${triggerId} up to ${new Date(moment).toISOString()}: ${problem}`);
          for (const line of timeline) {
            if (line.dueAt === undefined || line.claimedAt === undefined || !held.has(triggerId)) continue;
            const [due, claimed] = [Date.parse(line.dueAt), Date.parse(line.claimedAt)];
            if (!(due > heldFrom && due < heldTo - 1000 && claimed > heldTo - 500)) continue;
            waits += 1;
            if (!line.skipped?.some(({ reason }) => reason === 'maintenance'))
              judge.missed(`${triggerId}: a poll that waited for maintenance does not say so`);
          }
        }
      };
      await Promise.all(Array.from({ length: LANES }, lane));
      if (waits === 0) judge.missed('no explained poll had waited for the maintenance: nothing was proved of it');
      const polls = [...ledger.values()].reduce((sum, entries) => sum + entries.length, 0);
      return {
        tried: count,
        violations: judge.count,
        faults,
        polls,
        triggers,
        linesCompared: lines,
        waitsExplained: waits,
      };
    } finally {
      await rig.stop();
    }
  },
};

async function explain(rig: Rig, triggerId: string, until: number): Promise<{ timeline: readonly Line[] }> {
  const to = encodeURIComponent(new Date(until).toISOString());
  return await rig.engine<{ timeline: readonly Line[] }>(`/triggers/${triggerId}/explain?until=${to}&limit=500`);
}

/** What is wrong with the lines, oldest first; undefined when they are the ledger's beginning and reach up to the moment. */
function differenceOf(ledger: readonly Entry[], lines: readonly Line[], moment: number): string | undefined {
  let at = 0;
  let told = 0;
  let previous = 0;
  for (const line of lines) {
    if (line.what === 'quiet') {
      for (let n = 0; n < (line.polls ?? 0); n += 1, at += 1) {
        const entry = ledger[at];
        if (entry === undefined) return `${line.polls} empty polls, of which the ledger has ${n}`;
        if (entry.code !== 'ok' || entry.found !== entry.deduplicated)
          return `poll ${at} was not empty but ${JSON.stringify(entry)}`;
      }
      continue;
    }
    const entry = ledger[at];
    if (entry === undefined) return `a line for poll ${at}, which the ledger does not have: ${JSON.stringify(line)}`;
    const delivered = entry.found - entry.deduplicated;
    const wanted = { code: entry.code, found: entry.found, deduplicated: entry.deduplicated, delivered };
    const said = { code: line.code, found: line.found, deduplicated: line.deduplicated, delivered: line.delivered };
    if (JSON.stringify(wanted) !== JSON.stringify(said))
      return `poll ${at} was ${JSON.stringify(wanted)}, explained as ${JSON.stringify(said)}`;
    const [due, claimed, committed] = [line.dueAt, line.claimedAt, line.at].map((text) => Date.parse(text ?? ''));
    if (
      !(
        (due ?? 0) <= (claimed ?? 0) &&
        (claimed ?? 0) <= entry.at + 1 &&
        entry.at <= (committed ?? 0) + 1 &&
        previous <= entry.at
      )
    )
      return `poll ${at} of ${new Date(entry.at).toISOString()} has times out of order: ${JSON.stringify(line)}`;
    if (line.claimedBy === undefined || line.claimedBy === null) return `poll ${at} names no batch`;
    if (entry.code === 'ok' && !(Date.parse(line.nextAt ?? '') > (committed ?? 0)))
      return `poll ${at} has no next one: ${line.nextAt}`;
    previous = entry.at;
    at += 1;
    if ((committed ?? 0) <= moment) told = at;
  }
  const arrived = ledger.filter((entry) => entry.at <= moment).length;
  // An empty poll under way at the moment was committed after it: it belongs to the empty polls that begin with it.
  const [next] = ledger.slice(at);
  if (arrived === at + 1 && next?.code === 'ok' && next.found === next.deduplicated) return undefined;
  if (arrived > at) return `${arrived} polls had arrived, ${at} are explained`;
  if (told > arrived) return `${told} polls are explained as committed, ${arrived} had arrived`;
  return undefined;
}
