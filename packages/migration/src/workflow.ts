/**
 * Migration moves the triggers of a scope in chunks, at a rate, and can be paused; HandOff moves one chunk.
 *
 * A hand-off: mark on both sides → the old side stops → confirmed: no workflow, no lease, and its longest call has passed → what
 * is remembered is sealed and carried → the new side takes it under the next ownership epoch and arms → the old side's record
 * follows. At each instant at most one side may commit. A crash anywhere is resumed by Temporal; nothing is unsafe to repeat.
 */
import type { Direction, HandOffKey, HandOffRefusal, MigrationScope } from '@milkrun/core';
import { QUEUES } from '@milkrun/core/workflow';
import {
  CancellationScope,
  condition,
  continueAsNew,
  defineQuery,
  defineSignal,
  log,
  ParentClosePolicy,
  proxyActivities,
  setHandler,
  sleep,
  startChild,
  workflowInfo,
} from '@temporalio/workflow';
import type { EngineSteps, LegacySteps } from './activities.ts';
import { handOffIdOf } from './names.ts';

export interface HandOffInput {
  readonly direction: Direction;
  readonly triggerIds: readonly string[];
  readonly actor: string;
}

export interface HandOffResult {
  readonly moved: number;
  readonly gone: number;
  readonly refused: readonly { readonly triggerId: string; readonly code: HandOffRefusal }[];
}

export interface MigrationInput {
  readonly direction: Direction;
  readonly scope: MigrationScope;
  /** These instead of the scope's. */
  readonly triggerIds?: readonly string[];
  /** Triggers begun a second at the most. */
  readonly perSecond: number;
  /** Triggers in one hand-off. */
  readonly chunk: number;
  readonly actor: string;
  /** Of an earlier run of the same migration. */
  readonly resumed?: { readonly after: string | null; readonly n: number; readonly status: MigrationStatus };
}

export interface MigrationStatus {
  readonly direction: Direction;
  readonly scope: MigrationScope & { readonly triggers?: number };
  /** `paused` by a person, or by too many failures: then `pausedBecause` says so. */
  readonly state: 'running' | 'paused' | 'done';
  readonly pausedBecause: string | null;
  /** Triggers to be moved when it began. */
  readonly total: number;
  readonly begun: number;
  readonly moved: number;
  /** Deleted meanwhile. */
  readonly gone: number;
  /** By the reason. */
  readonly refused: Readonly<Record<string, number>>;
  /** The first of them. */
  readonly examples: readonly { readonly triggerId: string; readonly code: string }[];
  /** Chunks whose hand-off failed for good, which nobody but an operator causes. */
  readonly failed: number;
}

export const pauseSignal = defineSignal('pause');
export const resumeSignal = defineSignal('resume');
export const statusQuery = defineQuery<MigrationStatus>('status');

const HAND_OFFS_AT_ONCE = 16;
const EXAMPLES = 50;
/** A chunk is given up before the liveness rule calls it stuck. */
const GIVE_UP_MS = 8 * 60_000;
const MISSING_MS = 60_000;
const LOOK_MS = { least: 500, most: 5_000 };
const FAILURES_MIN = 10;
const FAILURES_SHARE = 0.2;

// Tried for as long as it takes: a hand-off must not be left half done because a database is away.
const patient = {
  startToCloseTimeout: 60_000,
  heartbeatTimeout: 6_000,
  retry: { initialInterval: 500, backoffCoefficient: 2, maximumInterval: 10_000 },
};
const legacy = proxyActivities<LegacySteps>(patient);
const engine = proxyActivities<EngineSteps>({ ...patient, taskQueue: QUEUES.timerShard });

// The workflow's clock: the SDK replaces Date, so that a replay reads the recorded time.
const now = (): number => Date.now();

export async function HandOff(input: HandOffInput): Promise<HandOffResult> {
  // Half of a hand-off is worse than the whole: once begun it goes on, cancelled or not.
  return await CancellationScope.nonCancellable(() => handOver(input));
}

async function handOver({ direction, triggerIds, actor }: HandOffInput): Promise<HandOffResult> {
  const handOff = workflowInfo().workflowId;
  const startedAt = now();
  const { begun, refused: refusedAtOnce } = await legacy.beginHandOff({ handOff, direction, triggerIds });
  const refused = [...refusedAtOnce];
  const there = refused.flatMap(({ triggerId, code }) => (code === 'already_there' ? [triggerId] : []));
  // A hand-off that was ended by hand after the legacy pipeline had accepted has left the engine's record behind.
  if (direction === 'to_legacy' && there.length > 0) await engine.concludeInEngine({ handOff, triggerIds: there });
  let open: readonly HandOffKey[] = begun;
  let moved = 0;
  let gone = 0;
  const without = (keys: readonly HandOffKey[], ids: readonly string[]) => {
    const out = new Set(ids);
    return keys.filter(({ triggerId }) => !out.has(triggerId));
  };
  const cancel = async (ids: readonly string[]) => {
    if (ids.length === 0) return;
    // The side that may poll again comes last.
    const chunk = { handOff, direction, triggerIds: ids };
    if (direction === 'to_v2') await engine.cancelInEngine(chunk);
    await legacy.cancelInLegacy(chunk);
    if (direction === 'to_legacy') await engine.cancelInEngine(chunk);
  };
  const giveUp = async (ids: readonly string[], code: HandOffRefusal) => {
    await cancel(ids);
    for (const triggerId of ids) refused.push({ triggerId, code });
    open = without(open, ids);
  };
  let missing: readonly string[] = begun.map(({ triggerId }) => triggerId);
  for (let round = 0; open.length > 0; round += 1) {
    if (missing.length > 0) ({ missing } = await engine.markInEngine({ handOff, direction, keys: open }));
    const ready = without(open, missing).map(({ triggerId }) => triggerId);
    let waitMs: number = LOOK_MS.most;
    if (ready.length > 0) {
      const carryStep = direction === 'to_v2' ? legacy.carryFromLegacy : engine.carryFromEngine;
      const carried = await carryStep({ handOff, round, triggerIds: ready });
      const { object } = carried;
      if (object !== null && direction === 'to_v2') {
        await engine.acceptInEngine({ handOff, object });
        await legacy.concludeInLegacy({ handOff, triggerIds: carried.moved, actor });
      } else if (object !== null) {
        await legacy.acceptInLegacy({ handOff, object, actor });
        await engine.concludeInEngine({ handOff, triggerIds: carried.moved });
      }
      const lost = carried.gone.filter((id) => ready.includes(id) && !carried.moved.includes(id));
      await cancel(lost);
      moved += carried.moved.length;
      gone += lost.length;
      open = without(open, [...carried.moved, ...lost]);
      waitMs = carried.waitMs ?? LOOK_MS.least;
    }
    const passed = now() - startedAt;
    const late = missing.filter((id) => open.some(({ triggerId }) => triggerId === id));
    if (late.length > 0 && passed > MISSING_MS) {
      await giveUp(late, 'not_in_engine');
      missing = [];
    }
    if (open.length > 0 && passed > GIVE_UP_MS)
      await giveUp(
        open.map(({ triggerId }) => triggerId),
        'still_running',
      );
    if (open.length > 0) await sleep(Math.min(LOOK_MS.most, Math.max(LOOK_MS.least, waitMs)));
  }
  return { moved, gone, refused };
}

export async function Migration(input: MigrationInput): Promise<MigrationStatus> {
  const { direction, scope, triggerIds, perSecond, chunk, actor } = input;
  let after = input.resumed?.after ?? null;
  let n = input.resumed?.n ?? 0;
  let inFlight = 0;
  let status: MigrationStatus = input.resumed?.status ?? {
    direction,
    scope: { ...scope, ...(triggerIds === undefined ? {} : { triggers: triggerIds.length }) },
    state: 'running',
    pausedBecause: null,
    ...{ total: 0, begun: 0, moved: 0, gone: 0, refused: {}, examples: [], failed: 0 },
  };
  setHandler(statusQuery, () => status);
  setHandler(pauseSignal, () => {
    status = { ...status, state: 'paused', pausedBecause: 'by command' };
  });
  setHandler(resumeSignal, () => {
    status = { ...status, state: 'running', pausedBecause: null };
  });
  const take = (result: HandOffResult): void => {
    const refused: Record<string, number> = { ...status.refused };
    for (const { code } of result.refused) refused[code] = (refused[code] ?? 0) + 1;
    status = {
      ...status,
      refused,
      moved: status.moved + result.moved,
      gone: status.gone + result.gone,
      examples: [...status.examples, ...result.refused].slice(0, EXAMPLES),
    };
  };
  const brake = (): void => {
    const failures = status.failed * chunk + (status.refused.still_running ?? 0) + (status.refused.not_in_engine ?? 0);
    if (failures <= Math.max(FAILURES_MIN, FAILURES_SHARE * status.begun) || status.state === 'paused') return;
    status = {
      ...status,
      state: 'paused',
      pausedBecause: `${failures} of ${status.begun} triggers could not be moved`,
    };
  };
  const page = async (): Promise<readonly string[]> =>
    triggerIds === undefined
      ? await legacy.selectScope({ direction, scope, after, limit: chunk })
      : triggerIds.slice(n * chunk, (n + 1) * chunk);

  if (input.resumed === undefined) {
    const total = triggerIds?.length ?? (await legacy.countScope({ direction, scope }));
    status = { ...status, total };
  }
  for (;;) {
    await condition(() => status.state === 'running' && inFlight < HAND_OFFS_AT_ONCE);
    const ids = await page();
    if (ids.length === 0) break;
    const handOff: HandOffInput = { direction, triggerIds: ids, actor };
    const child = await startChild(HandOff, {
      workflowId: handOffIdOf(workflowInfo().workflowId, n),
      args: [handOff],
      // A migration that is terminated stops beginning hand-offs; those under way go on to their end.
      parentClosePolicy: ParentClosePolicy.ABANDON,
    });
    n += 1;
    after = ids.at(-1) ?? after;
    inFlight += 1;
    status = { ...status, begun: status.begun + ids.length };
    void child
      .result()
      .then(take, (error: unknown) => {
        status = { ...status, failed: status.failed + 1 };
        log.error('a hand-off failed', { handOff: child.workflowId, error: String(error) });
      })
      .finally(() => {
        inFlight -= 1;
        brake();
      });
    await sleep(Math.ceil((ids.length / perSecond) * 1000));
    if (workflowInfo().continueAsNewSuggested) {
      await condition(() => inFlight === 0);
      await continueAsNew<typeof Migration>({ ...input, resumed: { after, n, status } });
    }
  }
  await condition(() => inFlight === 0);
  status = { ...status, state: 'done', pausedBecause: null };
  return status;
}
