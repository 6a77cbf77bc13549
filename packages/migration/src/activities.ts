/**
 * The steps of a hand-off, each on the task queue of the side whose storage it touches. All may be repeated at any point.
 * What triggers remember goes through the object store; history holds ids, counts and names.
 */
import {
  type CarriedObjects,
  type Direction,
  type EngineHandOffs,
  type HandOffKey,
  type HandOffRefusal,
  type LegacyHandOffs,
  legacyWorkflowIdOf,
  type MigrationScope,
  type Sealed,
  type TimerManager,
} from '@milkrun/core';
import { wakeLegacy } from '@milkrun/legacy-poller';
import { Context } from '@temporalio/activity';
import { type Client, WorkflowNotFoundError } from '@temporalio/client';
import type { Codecs } from './codecs.ts';

interface Chunk {
  /** Workflow id of the hand-off. */
  readonly handOff: string;
  readonly triggerIds: readonly string[];
}

interface CarryResult {
  /** Name of the object that holds `moved`; null when nothing has come to rest. */
  readonly object: string | null;
  readonly moved: readonly string[];
  readonly gone: readonly string[];
  readonly waitMs: number | null;
}

export interface LegacySteps {
  countScope(input: { readonly direction: Direction; readonly scope: MigrationScope }): Promise<number>;
  selectScope(input: {
    readonly direction: Direction;
    readonly scope: MigrationScope;
    readonly after: string | null;
    readonly limit: number;
  }): Promise<readonly string[]>;
  beginHandOff(input: Chunk & { readonly direction: Direction }): Promise<{
    readonly begun: readonly HandOffKey[];
    readonly refused: readonly { readonly triggerId: string; readonly code: HandOffRefusal }[];
  }>;
  carryFromLegacy(input: Chunk & { readonly round: number }): Promise<CarryResult>;
  acceptInLegacy(input: { readonly handOff: string; readonly object: string; readonly actor: string }): Promise<void>;
  concludeInLegacy(input: Chunk & { readonly actor: string }): Promise<void>;
  cancelInLegacy(input: Chunk & { readonly direction: Direction }): Promise<void>;
}

export interface EngineSteps {
  markInEngine(input: {
    readonly handOff: string;
    readonly direction: Direction;
    readonly keys: readonly HandOffKey[];
  }): Promise<{ readonly missing: readonly string[] }>;
  carryFromEngine(input: Chunk & { readonly round: number }): Promise<CarryResult>;
  acceptInEngine(input: { readonly handOff: string; readonly object: string }): Promise<void>;
  concludeInEngine(input: Chunk): Promise<void>;
  cancelInEngine(input: Chunk & { readonly direction: Direction }): Promise<void>;
}

interface SharedDeps {
  readonly objects: CarriedObjects;
  readonly codecs: Codecs;
  /** POLL_DEADLINE and what a poll function may take beyond it, seconds. */
  readonly longestCallSeconds: number;
}

export interface EngineStepDeps extends SharedDeps {
  readonly store: EngineHandOffs;
  readonly timers: TimerManager;
}

export interface LegacyStepDeps extends SharedDeps {
  readonly store: LegacyHandOffs;
  readonly client: Client;
}

/** A batch or a workflow that has not let go by itself after this is made to. */
const GRACE_SECONDS = 60;
/** A poll that has lost its right finds out within this: the next look at its fence or its heartbeat. */
const RECHECK_SECONDS = 5;
const AT_ONCE = 16;
const BEAT_MS = 2_000;

/** Nobody polls the trigger while a step is lost with its worker: it is missed within seconds, not after its whole time. */
function beating<Steps extends EngineSteps | LegacySteps>(steps: Steps): Steps {
  const wrapped = Object.entries(steps).map(([name, step]: [string, (input: never) => Promise<unknown>]) => [
    name,
    async (input: never) => {
      const context = Context.current();
      const timer = setInterval(() => context.heartbeat(), BEAT_MS);
      try {
        return await step(input);
      } finally {
        clearInterval(timer);
      }
    },
  ]);
  return Object.fromEntries(wrapped) as Steps;
}

export function createEngineSteps(deps: EngineStepDeps): EngineSteps {
  const { store } = deps;
  return beating<EngineSteps>({
    markInEngine: (input) => store.mark(input),
    async carryFromEngine({ handOff, triggerIds, round }) {
      const longestCallSeconds = deps.longestCallSeconds + RECHECK_SECONDS;
      const sealed = await store.seal({ handOff, triggerIds, longestCallSeconds, graceSeconds: GRACE_SECONDS });
      return await carry(deps, `${handOff}/${round}`, sealed);
    },
    async acceptInEngine({ handOff, object }) {
      const carried = await deps.objects.get(object);
      const { arm } = await store.accept({ handOff, carried });
      // The database first; a wake that is lost costs a tick.
      await Promise.all(arm.map((timerShard) => deps.timers.arm(timerShard)));
    },
    concludeInEngine: (input) => store.conclude(input),
    cancelInEngine: (input) => store.cancel(input),
  });
}

export function createLegacySteps(deps: LegacyStepDeps): LegacySteps {
  const { store, client, codecs } = deps;
  return beating<LegacySteps>({
    countScope: ({ direction, scope }) => store.count(direction, scope),
    selectScope: (input) => store.select(input),
    beginHandOff: (input) => store.begin({ ...input, accepts: codecs.accepts }),
    async carryFromLegacy({ handOff, triggerIds, round }) {
      const open = await store.unquiet({ handOff, triggerIds });
      const closed: string[] = [];
      await inTurns(open, async ({ triggerId, seconds }) => {
        if (await isClosed(client, triggerId, seconds > GRACE_SECONDS)) closed.push(triggerId);
      });
      if (closed.length > 0) await store.markQuiet({ handOff, triggerIds: closed });
      const longestCallSeconds = deps.longestCallSeconds + RECHECK_SECONDS;
      return await carry(deps, `${handOff}/${round}`, await store.seal({ handOff, triggerIds, longestCallSeconds }));
    },
    async acceptInLegacy({ handOff, object, actor }) {
      const accepted = await store.accept({ handOff, actor, carried: await deps.objects.get(object) });
      await inTurns(accepted, (triggerId) => wakeLegacy(client, triggerId));
    },
    concludeInLegacy: (input) => store.conclude(input),
    cancelInLegacy: (input) => store.cancel(input),
  });
}

/** What an earlier attempt wrote under the name counts: what has come to rest since waits for the next round. */
async function carry({ objects, codecs }: SharedDeps, object: string, sealed: Sealed): Promise<CarryResult> {
  const { carried, gone, waitMs } = sealed;
  if (carried.length === 0) return { object: null, moved: [], gone, waitMs };
  const written = await objects.put(object, carried.map(codecs.carry));
  return { object, moved: written.map(({ triggerId }) => triggerId), gone, waitMs };
}

/** Asks a trigger's workflow to end after the poll in progress, and whether it has; one that is late is terminated. */
async function isClosed(client: Client, triggerId: string, isLate: boolean): Promise<boolean> {
  const workflow = client.workflow.getHandle(legacyWorkflowIdOf(triggerId));
  try {
    if ((await workflow.describe()).status.name !== 'RUNNING') return true;
    if (isLate) await workflow.terminate('its trigger moves to v2');
    else await workflow.signal('stop');
    return (await workflow.describe()).status.name !== 'RUNNING';
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) return true;
    throw error;
  }
}

async function inTurns<T>(items: readonly T[], work: (item: T) => Promise<unknown>): Promise<void> {
  for (let at = 0; at < items.length; at += AT_ONCE) await Promise.all(items.slice(at, at + AT_ONCE).map(work));
}
