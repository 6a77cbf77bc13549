/**
 * Every crash point of the engine, before and after each effect on the world, times five kinds of end: killed, stopped
 * beyond the lease and resumed, asked to stop, its connection reset, its answer lost. Real processes on real PostgreSQL and
 * Temporal, several engines side by side; in each two workers live, one meets the point, the other takes over. Then nothing
 * may be lost, nothing leased, no commit stale, and every event has the id it should. A point that is never reached is a
 * violation.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { systemClock as clock, systemRng as rng, uuidv7, WORKFLOWS } from '@milkrun/core';
import { FAULT_KINDS, type FailpointReport, type FaultKind, partOf } from '@milkrun/testkit';
import { Client, Connection } from '@temporalio/client';
import { EFFECTS, POINTS } from './lib/engine/effects.ts';
import { type Lab, startLab } from './lib/engine/lab.ts';
import { eventually, LEASE_TTL_S, type Member, openSite, type ProxiedPart, type Site } from './lib/engine/site.ts';
import { TRIGGER_KINDS } from './lib/engine/world.ts';
import type { Drill, DrillInput, DrillResult, Say } from './lib/index.ts';
import { integerFrom, UsageError } from './lib/index.ts';
import { randomFrom } from './lib/random.ts';

interface Trial {
  readonly id: number;
  readonly point: string;
  readonly kind: FaultKind;
}

const ALL = POINTS.length * FAULT_KINDS.length;
const KILLS_WANTED = 2_000;
/** Every point by every kind, and of kills as many as are wanted. */
const FULL = ALL + KILLS_WANTED - POINTS.length;
/** Trials between two settlements of one engine. */
const ROUND = 12;
const REACH_MS = 240_000;
const AGAIN_MS = 20_000;
const SETTLE_MS = 240_000;
const DRAIN_MS = 60_000;
/** A broken connection is mended when the call has met it, at the latest after this. */
const BROKEN_MS = 3_000;

/** What has been settled: kept in the file of `--resume`, so that a long run goes on where it was cut off. */
interface Tally {
  /** Numbers of trials whose round was settled. */
  readonly settled: number[];
  /** Points with the kinds they were met by. */
  readonly met: string[];
  tried: number;
  violations: number;
  faults: number;
  events: number;
  repeats: number;
  readonly kinds: Record<FaultKind, number>;
}

interface Progress {
  readonly seed: number;
  readonly tally: Tally;
}

const fresh = (): Tally => ({
  settled: [],
  met: [],
  tried: 0,
  violations: 0,
  faults: 0,
  events: 0,
  repeats: 0,
  kinds: { kill: 0, stop: 0, term: 0, reset: 0, lost: 0 },
});

export const drill: Drill = {
  name: 'crash',
  about: 'Ended in any way before or after any effect, it loses nothing, leaks nothing and commits nothing stale.',
  defaults: { count: 60 },
  fullCount: FULL,
  flags: {
    sites: 'engines side by side, two workers each; default 3',
    point: 'only points whose name holds this text',
    kind: `only this kind: ${FAULT_KINDS.join(', ')}`,
    resume: 'a file that keeps which trials are settled; started again the run goes on from there',
  },
  async run({ count, seed, log, flags }: DrillInput): Promise<DrillResult> {
    const sites = integerFrom('sites', flags.sites, 3, 1);
    const file = flags.resume;
    if (file === true) throw new UsageError('--resume takes a file');
    const progress: Progress =
      file !== undefined && existsSync(file)
        ? (JSON.parse(readFileSync(file, 'utf8')) as Progress)
        : { seed, tally: fresh() };
    const { tally } = progress;
    const trials = trialsOf(count, progress.seed, flags.point, flags.kind);
    const settled = new Set(tally.settled);
    const queue = trials.filter(({ id }) => !settled.has(id));
    if (settled.size > 0) log(`${settled.size} of ${trials.length} trials are settled`);
    const report = (problem: string): void => {
      tally.violations += 1;
      log(`violation: ${problem}`);
    };
    const save = (): void => {
      if (file !== undefined) writeFileSync(file, JSON.stringify(progress));
    };
    if (queue.length > 0) {
      const lab = await startLab(sites);
      try {
        const places = Array.from({ length: sites }, (_, place) => place);
        await Promise.all(places.map((place) => runSite(lab, place, queue, tally, { report, log, save })));
      } finally {
        await lab.close();
      }
    }
    const met = new Set(tally.met);
    const wanted = trials.filter((trial) => !met.has(pairOf(trial)));
    for (const pair of new Set(wanted.map(pairOf))) report(`${pair} was never reached`);
    const { settled: _, met: __, kinds, ...figures } = tally;
    return {
      ...figures,
      points: POINTS.length,
      pointsReached: new Set(tally.met.map((pair) => pair.split(' ')[0])).size,
      pairs: ALL,
      pairsReached: met.size,
      ...kinds,
    };
  },
};

const pairOf = ({ point, kind }: Trial): string => `${point} ${kind}`;

/** Each point in turn, by another kind in each round; beyond all of them, kills. */
function trialsOf(
  count: number,
  seed: number,
  point: string | true | undefined,
  kind: string | true | undefined,
): Trial[] {
  const random = randomFrom(seed);
  const kinds = FAULT_KINDS.filter((one) => kind === undefined || one === kind);
  const points = POINTS.filter((name) => typeof point !== 'string' || name.includes(point));
  if (kinds.length === 0 || points.length === 0) throw new Error('there is no such point or kind');
  const order = points.map((name) => ({ name, at: random() })).toSorted((a, b) => a.at - b.at);
  return Array.from({ length: count }, (_, id) => {
    const round = Math.floor(id / order.length);
    const nth = id % order.length;
    return {
      id,
      point: (order[nth] as { name: string }).name,
      kind: round < kinds.length ? (kinds[(nth + round) % kinds.length] as FaultKind) : (kinds[0] as FaultKind),
    };
  });
}

/** Whom a site tells what. */
interface Desk {
  readonly report: (problem: string) => void;
  readonly log: Say;
  readonly save: () => void;
}

async function runSite(
  lab: Lab,
  place: number,
  queue: Trial[],
  tally: Tally,
  { report, log, save }: Desk,
): Promise<void> {
  const site = await openSite(lab, place);
  const members = await Promise.all([site.start(), site.start()]);
  const crew: Crew = { lab, site, members, replacing: [], resumed: new Set() };
  const told = { events: 0, repeats: 0 };
  try {
    await Promise.all(members.map(({ worker }) => worker.ready));
    while (queue.length > 0) {
      const round = queue.splice(0, ROUND);
      for (const trial of round) {
        const startedAt = performance.now();
        for (const ended of await mend(crew)) report(`site ${place}, before ${trial.point} ${trial.kind}: ${ended}`);
        const problem = await runTrial(crew, trial, tally).catch((error: Error) => `the trial failed: ${error.stack}`);
        if (problem !== undefined) report(`site ${place}, ${trial.point} ${trial.kind}: ${problem}`);
        log(
          `site ${place}: ${trial.id} ${trial.point} ${trial.kind} ${((performance.now() - startedAt) / 1000).toFixed(1)} s`,
        );
      }
      await Promise.all(crew.replacing.splice(0));
      const startedAt = performance.now();
      const wrong = await site.settle(SETTLE_MS);
      for (const what of wrong) report(`site ${place}: ${what}`);
      if (wrong.length > 0)
        log(`site ${place}: after ${round.map(({ point, kind }) => `${point} ${kind}`).join(', ')}`);
      log(`site ${place}: settled in ${((performance.now() - startedAt) / 1000).toFixed(1)} s`);
      const [events, repeats] = [site.world.accepted(), site.world.repeats()];
      tally.events += events - told.events;
      tally.repeats += repeats - told.repeats;
      Object.assign(told, { events, repeats });
      tally.settled.push(...round.map(({ id }) => id));
      save();
    }
  } finally {
    await Promise.allSettled(crew.replacing);
    await site.close();
  }
}

interface Crew {
  readonly lab: Lab;
  readonly site: Site;
  readonly members: Member[];
  /** Starts of workers in the place of those that are gone. */
  readonly replacing: Promise<void>[];
  /** Members that were stopped beyond their lease and resumed: what they find then may end them. */
  readonly resumed: Set<Member>;
}

/** Nobody arms the dead: whoever has ended since the last trial is replaced first. Answers what nobody had asked to end. */
async function mend(crew: Crew): Promise<string[]> {
  const wrong: string[] = [];
  for (const member of crew.members.filter(({ worker }) => worker.isGone())) {
    const { worker } = member;
    if (!crew.resumed.has(member)) wrong.push(`a worker ended by itself with ${await worker.gone}: ${worker.said()}`);
    await replace(crew, member);
  }
  return wrong;
}

/** Points that a worker passes when it starts, and seldom or never again. */
const AT_START =
  /^(store\.(ensureTimerShards|sourceLimits|listenForLimits|keepLogDays)|objects\.(probe|sweep)|runner\.readFunctionTimeout|startTimers)/;

/** Arms, brings the point about, lets the fault happen and the other worker take over. Answers what was wrong, if anything. */
async function runTrial(crew: Crew, trial: Trial, tally: Tally): Promise<string | undefined> {
  const { site, members } = crew;
  const isAtStart = AT_START.test(trial.point);
  const hit = Promise.withResolvers<Member>();
  const settled = Promise.withResolvers<void>();
  const watch = (member: Member): void =>
    member.worker.onReport((said: FailpointReport) => {
      if (said.id !== trial.id) return;
      if (said.said === 'hit') {
        for (const other of members) if (other !== member) other.worker.disarm(trial.id);
        void strike(trial, member, said.part === 'local' ? undefined : said.part, settled.promise);
        hit.resolve(member);
      } else settled.resolve();
    });
  let extra: Member | undefined;
  if (isAtStart) {
    extra = await site.start({ armed: [trial] });
    watch(extra);
  } else {
    // SIGTERM is what brings the leaving of a worker about: it must be sure who meets the point.
    const armed = trial.point.startsWith('store.removeWorker') ? members.slice(0, 1) : members;
    for (const member of armed) {
      watch(member);
      member.worker.arm(trial);
    }
  }
  let met: Member | undefined;
  const reached = hit.promise.then((member) => {
    met = member;
  });
  const isMet = (): boolean => met !== undefined;
  for (let waited = 0; !isMet() && waited < REACH_MS; waited += AGAIN_MS) {
    await stimulate(crew, trial);
    await Promise.race([reached, eventually(AGAIN_MS, isMet)]);
  }
  const victim = met as Member | undefined;
  if (victim === undefined) {
    for (const { worker } of members) worker.disarm(trial.id);
    if (extra !== undefined) await retire(crew, extra);
    return `not reached within ${REACH_MS / 1000} s; ${await stateOf(site)}`;
  }
  tally.tried += 1;
  tally.faults += 1;
  tally.kinds[trial.kind] += 1;
  tally.met.push(pairOf(trial));
  const problem = await aftermath(crew, trial, victim, settled.promise, victim === extra);
  if (extra !== undefined) await retire(crew, extra);
  return problem;
}

/** What the engine has before it, for whoever has to find out why a point was not reached. */
async function stateOf({ sql }: Site): Promise<string> {
  const [row] = await sql`
    select (select jsonb_agg(to_jsonb(t) - 'serves') from timer_shards t) as shards, (select jsonb_agg(t) from turns t) as turns,
      (select jsonb_agg(jsonb_build_array(batch_id, step, hop, entries, open, expires_at > statement_timestamp()))
        from batches where ended_at is null) as batches,
      (select jsonb_agg(w) from workers w) as workers,
      (select jsonb_build_object('due', count(*) filter (where next_poll_at <= statement_timestamp()), 'all', count(*))
        from polling_trigger_runs where enabled) as rows, (select cursor from change_feed) as feed, statement_timestamp() as now`;
  return JSON.stringify(row);
}

/** A batch of the day before yesterday, whose workflow nobody has ended: liveness does. */
async function abandonBatch({ lab, site }: Crew): Promise<void> {
  const old = { ...clock, now: () => clock.now() - 2 * 86_400_000 };
  const connection = await Connection.connect({ address: lab.temporalAddress });
  try {
    await new Client({ connection, namespace: site.namespace }).workflow.start(WORKFLOWS.batchPoller, {
      taskQueue: 'nobody-serves-this',
      workflowId: `batch-poller:0:${uuidv7(old, rng)}`,
      args: [],
    });
  } finally {
    await connection.close();
  }
}

/** New triggers go through every step; the rest is what only some points need. */
async function stimulate(crew: Crew, { point }: Trial): Promise<void> {
  const { site, members } = crew;
  const { world } = site;
  const [ask] = members as [Member];
  const ids = world.add(TRIGGER_KINDS);
  const quietly = (call: Promise<unknown>): Promise<unknown> => call.catch(() => undefined);
  if (point.startsWith('store.applyFeedPage.push')) {
    void quietly(ask.engine('/triggers/changes', { changes: world.changesOf(ids) }));
  } else if (/^store\.(beginResync|finishResync)/.test(point)) world.expireFeed();
  else if (/^(store\.pollNow|verbTimers)/.test(point)) {
    await eventually(5_000, async () => {
      const [row] = await site.sql`select from polling_triggers where trigger_id = ${ids[0] as string}`;
      return row !== undefined;
    });
    void quietly(ask.engine(`/triggers/${ids[0]}/poll-now`, {}));
  } else if (point.startsWith('store.pollAllNow')) void quietly(ask.engine('/poll-all', {}));
  else if (point.startsWith('store.clearHalts')) void quietly(ask.engine('/halts/clear', { code: 'auth.revoked' }));
  else if (point.startsWith('store.confirmMassDelete')) void quietly(ask.engine('/feed/confirm-deletes', {}));
  else if (/temporal\.terminate|store\.end:/.test(point)) await abandonBatch(crew);
  else if (point.startsWith('store.setHold')) void quietly(ask.engine('/holds', { toolkit: 'nobody', seconds: 1 }));
  else if (point.startsWith('store.clearHold')) void quietly(ask.engine('/holds/clear', { toolkit: 'nobody' }));
  else if (point.startsWith('store.setTimerShards')) {
    // Twice as many, or one again.
    const [row] = await site.sql<{ shards: number }[]>`select count(*)::int as shards from timer_shards`;
    void quietly(ask.engine('/shards', { count: row?.shards === 1 ? 2 : 1 }));
  } else if (point.startsWith('store.endBatch')) {
    const [batch] = await site.sql<{ batch_id: string }[]>`
      select batch_id from batches where ended_at is null order by started_at desc limit 1`;
    void quietly(ask.engine(`/batches/${encodeURIComponent(batch?.batch_id ?? 'none')}/end`, {}));
  } else if (point.startsWith('store.removeWorker')) ask.worker.signal('SIGTERM');
}

/** Breaks the connection of a call that waits at its point, and mends it when the call has met that. */
async function strike(
  { id, point, kind }: Trial,
  { worker, proxies }: Member,
  part: ProxiedPart | undefined,
  settled: Promise<void>,
): Promise<void> {
  if (part === undefined || (kind !== 'reset' && kind !== 'lost')) return;
  const proxy = proxies[part];
  if (point.endsWith(':after')) {
    if (kind === 'reset') proxy.resetAll();
    worker.go(id);
    return;
  }
  proxy.set({ kind: kind === 'reset' ? 'reset' : 'lose_answer' });
  worker.go(id);
  await Promise.race([settled, clock.sleep(BROKEN_MS)]);
  proxy.set(undefined);
}

async function aftermath(
  crew: Crew,
  { point, kind }: Trial,
  victim: Member,
  settled: Promise<void>,
  isExtra: boolean,
): Promise<string | undefined> {
  const { worker } = victim;
  switch (kind) {
    case 'kill':
      await worker.gone;
      await replace(crew, victim);
      return undefined;
    case 'term': {
      const how = await Promise.race([worker.gone, clock.sleep(DRAIN_MS).then(() => 'no end')]);
      if (how === 'no end') await worker.kill();
      await replace(crew, victim);
      return how === 0 ? undefined : `SIGTERM ended with ${how}`;
    }
    case 'stop':
      return await beyondTheLease(crew, victim, isExtra);
    default:
      if (partOf(EFFECTS, point) !== 'local' && point.endsWith(':before')) {
        await Promise.race([settled, clock.sleep(BROKEN_MS)]);
      }
      // A start that cannot reach its servers may end; a worker that runs may not. Leaving, it is on its way out.
      if (point.startsWith('store.removeWorker')) {
        const how = await Promise.race([worker.gone, clock.sleep(DRAIN_MS).then(() => 'no end')]);
        if (how === 'no end') await worker.kill();
        await replace(crew, victim);
        return how === 0 ? undefined : `SIGTERM ended with ${how}`;
      }
      if (!isExtra && worker.isGone()) {
        const said = worker.said();
        await replace(crew, victim);
        return `the worker ended by itself with ${await worker.gone}: ${said}`;
      }
      return undefined;
  }
}

/** Resumed when every lease it held has run out or been given back, and somebody else may have it. */
async function beyondTheLease(crew: Crew, victim: Member, isExtra: boolean): Promise<string | undefined> {
  const { site } = crew;
  const { worker } = victim;
  await site.forget(worker.pid);
  const held = await site.sql<{ batch_id: string }[]>`select batch_id from batches where ended_at is null`;
  const names = held.map((row) => row.batch_id);
  const isOver = await eventually(3 * LEASE_TTL_S * 1000 + SETTLE_MS, async () => {
    const [row] = await site.sql<{ live: number }[]>`
      select count(*)::int as live from batches where batch_id = any (${names}) and ended_at is null and expires_at > statement_timestamp()`;
    return row?.live === 0;
  });
  // Nothing was leased: beyond the lease is then a time, not a fact.
  if (names.length === 0) await clock.sleep(LEASE_TTL_S * 1000);
  worker.signal('SIGCONT');
  if (!isOver) return 'leases of the stopped worker were neither taken over nor free';
  if (!isExtra) crew.resumed.add(victim);
  return undefined;
}

/** Somebody else comes in the place of a worker that is gone; the drill goes on with the one that is left meanwhile. */
async function replace(crew: Crew, victim: Member): Promise<void> {
  const { site, members } = crew;
  await site.forget(victim.worker.pid);
  await victim.close();
  const at = members.indexOf(victim);
  if (at === -1) return;
  members.splice(at, 1);
  const start = (async () => {
    const member = await site.start();
    await member.worker.ready;
    members.push(member);
  })();
  crew.replacing.push(start);
  // Never fewer than one that lives.
  if (members.length === 0) await start;
}

async function retire({ site }: Crew, member: Member): Promise<void> {
  const { pid } = member.worker;
  await member.close();
  await site.forget(pid);
}
