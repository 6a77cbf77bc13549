/**
 * Every effect of the engine on the world, port by port: the list of crash points is made from it. The type asks for each
 * method of each port, so an effect that is added to one does not compile until it has its points here.
 */
import type { TemporalClient } from '@milkrun/dispatch';
import { type EffectTable, pointsOf } from '@milkrun/testkit';
import type { WorkerPorts } from '@milkrun/worker';

type Handle = ReturnType<TemporalClient['workflow']['getHandle']>;

/** Temporal's client, its handles unfolded. */
export type FlatTemporal = Omit<TemporalClient['workflow'], 'getHandle' | 'list'> & {
  readonly [Name in keyof Handle]: (handle: Handle, ...args: Parameters<Handle[Name]>) => ReturnType<Handle[Name]>;
} & { list(query: string): Promise<readonly { readonly workflowId: string }[]> };

export type EnginePorts = Omit<WorkerPorts, 'temporal'> & { readonly temporal: FlatTemporal };

const PURPOSES = ['entries', 'auth', 'verdicts', 'results', 'delivered'] as const;
/** `batches/{batchId}/{purpose}…`. */
const purposeOf = ([key]: readonly [string, ...unknown[]]): string | undefined =>
  PURPOSES.find((purpose) => key.split('/')[2] === purpose);

const postgres = { part: 'postgres' } as const;
const temporal = { part: 'temporal' } as const;
const local = { part: 'local' } as const;
const view = { none: 'a view for people: nothing follows from it' } as const;
/** Arms never throw: what is lost on the way is lost, and said by metric. */
const arm = { arm: { ...temporal, lost: () => undefined } } as const;

export const EFFECTS: EffectTable<EnginePorts> = {
  store: {
    claim: postgres,
    extend: {
      ...postgres,
      variants: ['claim', 'auth', 'poll', 'broadcast', 'commit'],
      variantOf: ([{ step }]) => step,
    },
    check: postgres,
    readStates: postgres,
    readHeld: postgres,
    holdFenced: postgres,
    commit: { ...postgres, variants: ['hop', 'end'], variantOf: ([{ end }]) => (end ? 'end' : 'hop') },
    end: postgres,
    tick: postgres,
    feedCursor: postgres,
    applyFeedPage: { ...postgres, variants: ['pull', 'push'], variantOf: ([{ source }]) => source },
    beginResync: postgres,
    resyncInProgress: postgres,
    finishResync: postgres,
    heartbeatWorker: postgres,
    removeWorker: postgres,
    timerShards: postgres,
    ensureTimerShards: postgres,
    liveness: postgres,
    repairLiveness: postgres,
    pendingLifecycle: postgres,
    acknowledgeLifecycle: postgres,
    withTurn: { ...postgres, variants: ['feed', 'lifecycle', 'liveness'], variantOf: ([name]) => name },
    pollNow: postgres,
    pollAllNow: postgres,
    clearHalts: postgres,
    confirmMassDelete: postgres,
    setHold: postgres,
    clearHold: postgres,
    setTimerShards: postgres,
    endBatch: postgres,
    limitSources: postgres,
    sourceLimits: postgres,
    listenForLimits: postgres,
    keepLogDays: postgres,
    shards: view,
    workers: view,
    batches: { none: 'a view; a drain reads it too, and what it then does are commits' },
    fleet: view,
    pending: view,
    liveBatches: { none: 'a view; a drain asks again until it is answered' },
    trigger: view,
    explain: view,
    deadLetters: view,
    deadLetter: view,
    holds: view,
    gauges: view,
    ping: view,
    sql: { none: 'the raw connection: only a dry run reads through it' },
    close: { none: 'the end of the process' },
  },
  objects: {
    putIfAbsent: { ...local, variants: PURPOSES, variantOf: purposeOf },
    get: { ...local, variants: PURPOSES, variantOf: purposeOf },
    list: { ...local, variants: PURPOSES.slice(1), variantOf: purposeOf },
    delete: { ...local, variants: ['auth'], variantOf: purposeOf },
    probe: local,
    sweep: local,
    close: { none: 'the end of the process' },
  },
  controlPlane: {
    fetchConnections: {
      part: 'controlPlane',
      lost: ([asks]) =>
        asks.map(({ connectionId, tenantId }) => ({
          connectionId,
          tenantId,
          code: 'auth.unavailable',
          reason: 'lost by the drill',
        })),
    },
    postState: {
      part: 'controlPlane',
      variants: ['events', 'lifecycle'],
      variantOf: ([{ lifecycle }]) => (lifecycle.length > 0 ? 'lifecycle' : 'events'),
      lost: () => ({ kind: 'unavailable', reason: 'lost by the drill' }),
    },
    readChanges: { part: 'controlPlane', lost: () => ({ kind: 'unavailable', reason: 'lost by the drill' }) },
    close: { none: 'the end of the process' },
  },
  runner: {
    poll: { part: 'pollFunction', lost: () => ({ code: 'poll.unavailable', message: 'lost by the drill' }) },
    readFunctionTimeout: { part: 'pollFunction', lost: () => null },
    close: { none: 'the end of the process' },
  },
  temporal: {
    start: temporal,
    signalWithStart: temporal,
    list: temporal,
    describe: temporal,
    terminate: temporal,
  },
  commitTimers: arm,
  feedTimers: arm,
  verbTimers: arm,
  startTimers: arm,
  steps: {
    claimAndSnapshot: temporal,
    fetchAuth: temporal,
    poll: temporal,
    broadcast: temporal,
    commit: temporal,
  },
  ticks: { tick: temporal },
};

export const POINTS: readonly string[] = pointsOf(EFFECTS);
