/**
 * kill -9 in the middle of polling, of everything down to the servers, of Milkrun's own processes, or of the first one
 * alone, and the same command again in the same folder: every trigger is taken over, and of each item the synthetic provider had since the triggers were made, exactly one event is
 * stored, with the id that follows from trigger and key.
 */
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { synthetic, syntheticKey, syntheticSlots } from '@milkrun/connectors';
import { eventIdOf, systemClock } from '@milkrun/core';
import { type DevRun, freePorts, KILLED, processesIn, startDev, until } from './lib/dev-run.ts';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { integerFrom } from './lib/index.ts';
import { randomFrom } from './lib/random.ts';

const LEASE_TTL_S = 15;
const INTERVAL_S = 5;
const RATE_PER_MINUTE = 12;
const LATENCY_MS = 1500;
/** A lease that outlives its batch ends with the TTL; then a tick, a batch and the load of a start. */
const TAKE_OVER_S_MAX = LEASE_TTL_S + 45;

interface Figures {
  readonly triggers: number;
  readonly leasesHeld: number;
  readonly pending: number | null;
  readonly undelivered: number;
  readonly batches: Readonly<Record<string, number>>;
}

interface Fleet {
  readonly phases: ReadonlyMap<string, number>;
  readonly sinceMs: number;
}

export const drill: Drill = {
  name: 'kill',
  about: 'Killed in the middle of polling, it goes on where it was: nothing lost, nothing twice, no lease left.',
  defaults: { count: 10 },
  flags: { triggers: 'synthetic triggers, polled every 5 s; default 300' },
  async run({ count, seed, log, flags }: DrillInput): Promise<DrillResult> {
    const triggers = integerFrom('triggers', flags.triggers, 300, 1);
    const random = randomFrom(seed);
    const home = await mkdtemp(join(tmpdir(), 'milkrun-drill-kill-'));
    // PostgreSQL refuses to run as root, so its own user has to reach the folder.
    await chmod(home, 0o755);
    const settings = { ...(await freePorts()), LEASE_TTL: `${LEASE_TTL_S}s`, DISPATCH_TICK: '1s' };
    let violations = 0;
    const report = (problem: string): void => {
      violations += 1;
      log(`violation: ${problem}`);
    };
    let run: DevRun | undefined;
    let faults = 0;
    const takeOvers: number[] = [];
    const leasedAtKill: number[] = [];
    try {
      run = await startDev({ home, settings, log });
      const fleet = await createFleet(run, triggers);
      for (let round = 1; round <= count; round += 1) {
        leasedAtKill.push(await pollingUnderWay(run));
        await systemClock.sleep(random() * LATENCY_MS);
        const what = KILLED[(round - 1) % KILLED.length];
        const processes = await run.kill(what);
        faults += 1;
        log(
          `round ${round} of ${count}: killed ${what}, ${processes} processes; ${leasedAtKill.at(-1)} leases were held`,
        );
        run = await startDev({ home, settings, log });
        takeOvers.push(await takenOver(run, report));
      }
      const checked = await compare(run, fleet, report);
      const exitCode = await run.stop();
      if (exitCode !== 0) report(`the last run ended with ${exitCode} on Ctrl-C`);
      for (const left of processesIn(home)) report(`a process is left: ${left.slice(0, 200)}`);
      const takeOverSecondsMax = Math.max(...takeOvers);
      return { tried: checked, violations, faults, triggers, leasedAtKill, takeOverSecondsMax, leaseTtl: LEASE_TTL_S };
    } catch (error) {
      await run?.kill();
      throw error;
    } finally {
      await rm(home, { recursive: true, force: true });
    }
  },
};

/** The drill's own triggers are the only ones polled, so that the engine's counts are theirs. */
async function createFleet(run: DevRun, count: number): Promise<Fleet> {
  const packages = await run.api<{ items: { id: string }[] }>('/triggers?limit=500');
  for (const { id } of packages.items) await run.api(`/triggers/${id}/disable`, { reason: 'not part of the drill' });
  const { toolkit, slug, version } = synthetic;
  const { id: connectionId } = await run.api<{ id: string }>('/connections', {
    toolkit,
    name: 'drill',
    credentials: { type: 'none' },
  });
  const sinceMs = Date.now();
  const phases = Array.from({ length: count }, (_, n) => n / count);
  const made: string[] = [];
  while (made.length < count) {
    const triggers = phases.slice(made.length, made.length + 1000).map((phase) => {
      const config = { ratePerMinute: RATE_PER_MINUTE, phase, latencyMs: LATENCY_MS };
      const since = new Date(sinceMs).toISOString();
      const poll = synthetic.policyOf(config);
      return { toolkit, slug, version, config, poll, connectionId, intervalSeconds: INTERVAL_S, since };
    });
    const answer = await run.api<{ triggers: { id: string }[] }>('/triggers/bulk', { triggers });
    made.push(...answer.triggers.map(({ id }) => id));
  }
  await until('the engine to know the triggers', 60_000, async () => (await figuresOf(run)).triggers === count);
  return { phases: new Map(made.map((id, n) => [id, phases[n] as number])), sinceMs };
}

/** Waits until a poll step runs; answers how many rows are leased then. */
async function pollingUnderWay(run: DevRun): Promise<number> {
  let leased = 0;
  await until('a poll step under way', 120_000, async () => {
    const { batches, leasesHeld } = await figuresOf(run);
    leased = leasesHeld;
    return (batches.poll ?? 0) > 0 && leasesHeld > 0;
  });
  return leased;
}

/** Waits until every trigger has been polled since the start; answers the seconds. */
async function takenOver(run: DevRun, report: (problem: string) => void): Promise<number> {
  const startedAt = performance.now();
  const since = new Date().toISOString();
  let pending: number | null = null;
  await until('every lease to be taken over', TAKE_OVER_S_MAX * 1000, async () => {
    ({ pending } = await figuresOf(run, since));
    return pending === 0;
  }).catch((error: Error) => report(`${error.message}: ${pending} triggers are left`));
  return Number(((performance.now() - startedAt) / 1000).toFixed(1));
}

/** What is stored against what the provider had; answers how many items were checked. */
async function compare(run: DevRun, { phases, sinceMs }: Fleet, report: (problem: string) => void): Promise<number> {
  const toMs = Date.now();
  const wanted = [...phases].map(([triggerId, phase]) => {
    return { triggerId, phase, ...syntheticSlots(RATE_PER_MINUTE, sinceMs, toMs, phase) };
  });
  // What a cursor has passed must be stored; what it has not is not lost but not polled yet, whatever was committed since.
  let behind = wanted;
  await until('every cursor to pass the last item', TAKE_OVER_S_MAX * 1000, async () => {
    const slots = await Promise.all(behind.map(({ triggerId }) => slotOf(run, triggerId)));
    behind = behind.filter(({ last }, n) => (slots[n] as number) < last);
    return behind.length === 0;
  }).catch((error: Error) => report(`${error.message}: ${behind.length} triggers are behind`));
  const { undelivered } = await figuresOf(run);
  if (undelivered !== 0) report(`${undelivered} events are not delivered`);
  const stored = new Map<string, number>();
  for (let cursor: string | null = ''; cursor !== null; ) {
    const page: { items: { id: string; triggerId: string; event: { data: { slot: number } } }[]; next: string | null } =
      await run.api(`/events?limit=500${cursor === '' ? '' : `&cursor=${encodeURIComponent(cursor)}`}`);
    for (const { id, triggerId, event } of page.items) {
      if (!phases.has(triggerId)) continue;
      const key = syntheticKey(event.data.slot);
      if (id !== eventIdOf(triggerId, key)) report(`event ${id} of ${triggerId} ${key} has another id than it should`);
      const item = `${triggerId} ${key}`;
      stored.set(item, (stored.get(item) ?? 0) + 1);
    }
    cursor = page.next;
  }
  for (const [item, times] of stored) if (times > 1) report(`${item} is stored ${times} times`);
  let checked = 0;
  for (const { triggerId, phase, first, last } of wanted) {
    for (let slot = first; slot <= last; slot += 1) {
      checked += 1;
      if (stored.has(`${triggerId} ${syntheticKey(slot)}`)) continue;
      const at = ((slot + phase) * 60_000) / RATE_PER_MINUTE;
      report(`${triggerId} ${syntheticKey(slot)} of ${new Date(at).toISOString()}, ${toMs - at} ms old, is lost`);
    }
  }
  return checked;
}

/** The last slot that the trigger's cursor has passed. */
async function slotOf(run: DevRun, triggerId: string): Promise<number> {
  const { cursor } = await run.engine<{ cursor: { slot: number } | null }>(`/triggers/${triggerId}`);
  return cursor?.slot ?? Number.NEGATIVE_INFINITY;
}

function figuresOf(run: DevRun, since?: string): Promise<Figures> {
  return run.engine<Figures>(since === undefined ? '/fleet' : `/fleet?since=${encodeURIComponent(since)}`);
}
