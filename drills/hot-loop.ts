/**
 * The object store, then the control plane is away while everything is due. Nothing may spin: a row is claimed at most
 * once in each platform back-off (a pause of its timer shard, or the time a breaker keeps dispatch shut).
 *
 * Scaled: each of the ten minutes is `--down` seconds of real time (default 60). Breakers, their one probe a minute and the
 * back-off of 30 s and more are not scaled, so the full length only repeats what the default shows once.
 */
import { systemClock } from '@milkrun/core';
import { insertFleet, type Rig, startRig, verdicts, watch } from './lib/fleet-rig.ts';
import { type Drill, type DrillInput, type DrillResult, integerFrom } from './lib/index.ts';

const INTERVAL_S = 3600;

interface Phase {
  readonly claimsPerRowMax: number;
  readonly backoffs: number;
  readonly claimsPerRowPerBackoff: number;
  readonly recoverySeconds: number;
  readonly pollsPerRow: number;
}

export const drill: Drill = {
  name: 'hot-loop',
  about:
    'While the object store or the control plane is away nothing spins, and everything is polled in one pass after.',
  defaults: { count: 5000 },
  fullCount: 20_000,
  flags: { down: 'seconds each is away; default 60' },
  async run({ count, log, flags }: DrillInput): Promise<DrillResult> {
    const downSeconds = integerFrom('down', flags.down, 60, 20);
    const judge = verdicts(log);
    const rig = await startRig({
      workers: 0,
      settings: { DISPATCH_TICK: '1s', LEASE_TTL: '15s' },
      log,
      fill: (sql) => insertFleet(sql, [{ count, toolkit: 'source', tenants: 10, intervalSeconds: INTERVAL_S }]),
    });
    try {
      await rig.startWorker();
      const phases: Record<string, Phase> = {};
      const parts: [string, (down: boolean) => Promise<void>][] = [
        ['object store', (down) => rig.setStoreDown(down)],
        [
          'control plane',
          async (down) => {
            if (down) rig.upstream.down.add('control_plane');
            else rig.upstream.down.delete('control_plane');
          },
        ],
      ];
      for (const [part, setDown] of parts) {
        const phase = await outageOf(rig, { part, setDown, count, downSeconds, log });
        phases[part] = phase;
        if (phase.claimsPerRowPerBackoff > 1)
          judge.missed(`${part}: a row was claimed ${phase.claimsPerRowMax} times in ${phase.backoffs} back-offs`);
        if (phase.pollsPerRow > 1.01)
          judge.missed(`${part}: ${phase.pollsPerRow.toFixed(2)} polls a trigger after it came back`);
      }
      const [charged] = await rig.sql<{ n: number }[]>`
        select count(*) filter (where failure_count > 0 or halted_code is not null)::int as n from polling_trigger_runs`;
      if ((charged?.n ?? 0) > 0) judge.missed(`${charged?.n} triggers were charged for it`);
      return { tried: count * parts.length, violations: judge.count, faults: parts.length, downSeconds, ...phases };
    } finally {
      await rig.stop();
    }
  },
};

async function outageOf(
  { sql, upstream, engine }: Rig,
  input: {
    readonly part: string;
    readonly setDown: (down: boolean) => Promise<void>;
    readonly count: number;
    readonly downSeconds: number;
    readonly log: DrillInput['log'];
  },
): Promise<Phase> {
  const { part, setDown, count, downSeconds, log } = input;
  await setDown(true);
  const [mark] = await sql<{ at: Date }[]>`select statement_timestamp() as at`;
  await sql`update polling_trigger_runs set next_poll_at = statement_timestamp(), last_polled_at = null`;
  const epochsBefore = await epochs(sql);
  upstream.counts.polls = 0;
  await engine('/poll-all', {}).catch(() => undefined);
  await systemClock.sleep(downSeconds * 1000);
  await setDown(false);
  const backAt = performance.now();
  const left = await watch(
    `everything to be polled after the ${part} came back`,
    { everyMs: 500, withinMs: 420_000 },
    async () =>
      (await sql<{ n: number }[]>`select count(*)::int as n from polling_trigger_runs where last_polled_at is null`)[0]
        ?.n ?? 0,
    (n) => n === 0,
  );
  const recoverySeconds = Number(((performance.now() - backAt) / 1000).toFixed(1));
  const after = await epochs(sql);
  let claimsPerRowMax = 0;
  for (const [id, epoch] of after) claimsPerRowMax = Math.max(claimsPerRowMax, epoch - (epochsBefore.get(id) ?? 0));
  // A hold of one kind that was renewed is one; the good claim at the end is not a repeat, so it counts as one more.
  const [row] = await sql<
    { n: number }[]
  >`select count(*)::int as n from holds_log where reason in ('backoff', 'breaker') and since >= ${mark?.at ?? ''}`;
  const backoffs = row?.n ?? 0;
  const claimsPerRowPerBackoff = (claimsPerRowMax - 1) / Math.max(1, backoffs);
  const pollsPerRow = upstream.counts.polls / count;
  log(
    `${part}: claimed at most ${claimsPerRowMax} times, ${backoffs} back-offs, ${left} left, recovered in ${recoverySeconds} s`,
  );
  return {
    claimsPerRowMax,
    backoffs,
    claimsPerRowPerBackoff: Number(claimsPerRowPerBackoff.toFixed(2)),
    recoverySeconds,
    pollsPerRow: Number(pollsPerRow.toFixed(3)),
  };
}

async function epochs(sql: Rig['sql']): Promise<Map<string, number>> {
  const rows = await sql<
    { id: string; epoch: number }[]
  >`select trigger_id as id, lease_epoch as epoch from polling_trigger_runs`;
  return new Map(rows.map(({ id, epoch }) => [id, epoch]));
}
