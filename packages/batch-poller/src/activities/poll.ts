/**
 * poll: run each authorized trigger's poll function, in slots of the whole process.
 *
 * In: `authorized`. Out: `polled`, or a verdict. Window: poll function; states are read from workerdb in slices.
 * Again: only entries without a result. Order: cursor and events of a page are one record, never one without the other.
 * A reply that never came is a verdict (`poll.timeout`), never an exception.
 */
import { type BatchPollerInput, type LeasedKey, STEP_BUDGET_SECONDS, type TriggerState } from '@milkrun/core';
import type { BatchDeps } from '../deps.ts';
import type { FoldedEntry } from '../fold.ts';
import { pollChain } from '../poll-chain.ts';
import type { SlotJob } from '../poll-slots.ts';
import { readFolded } from '../read-batch.ts';
import { authKeyOf } from '../snapshot/records.ts';
import { Draining, type RunningStep, runStep, type StepContext, type StepResult } from '../step.ts';
import { isUsable } from './fetch-auth.ts';

type Claimed = Extract<FoldedEntry, { state: 'claimed' }>;

const SLICE_ROWS = 2_500;
const SLICE_BYTES = 8 * 1024 * 1024;
const RECHECK_MS = 5_000;

export async function poll(deps: BatchDeps, input: BatchPollerInput, context: StepContext): Promise<StepResult> {
  const budgetMs = STEP_BUDGET_SECONDS.poll * 1000;
  return runStep(deps, { step: 'poll', budgetMs, input, context }, async (running) => {
    const [folded, auth] = await Promise.all([readFolded(deps, input), deps.snapshots.readAuth(input.batchId)]);
    const claimed = folded.filter(
      (entry): entry is Claimed => entry.state === 'claimed' && !running.fenced.has(entry.trigger.triggerId),
    );
    const ready = claimed.filter((entry) =>
      isUsable(auth.get(authKeyOf(entry.trigger.tenantId, entry.trigger.connectionId)), deps.clock.now()),
    );
    running.open = claimed.length;
    const stop = new AbortController();
    const signal = AbortSignal.any([running.signal, deps.draining, stop.signal]);
    const writer = deps.snapshots.resultWriter(input.batchId, input.retryCounter, context.attempt);
    let done = 0;
    let askedSeconds = 0;
    const recheck = recheckFence(deps, running, stop.signal);
    // One failure to write results stops the step: pages that cannot be saved must not be polled for.
    let broken: unknown;
    try {
      const slices = sliceByState(ready);
      let next: Promise<ReadonlyMap<string, TriggerState>> | undefined = slices[0] && statesOf(deps, slices[0]);
      for (let at = 0; at < slices.length && !signal.aborted && broken === undefined; at += 1) {
        const slice = slices[at] as readonly Claimed[];
        const states = await (next as Promise<ReadonlyMap<string, TriggerState>>);
        const following = slices[at + 1];
        next = following && statesOf(deps, following);
        next?.catch(() => {});
        await runSlice(slice, (entry) => async () => {
          if (signal.aborted || broken !== undefined || deps.clock.monotonic() > running.budgetEnd) return;
          if (running.fenced.has(entry.trigger.triggerId)) return;
          const record = auth.get(authKeyOf(entry.trigger.tenantId, entry.trigger.connectionId));
          if (!isUsable(record, deps.clock.now())) return;
          try {
            const outcome = await pollChain(deps, {
              batchId: input.batchId,
              hop: input.retryCounter,
              attempt: context.attempt,
              trigger: entry.trigger,
              state: states.get(entry.trigger.triggerId),
              auth: record.auth,
              signal,
              budgetEnd: running.budgetEnd,
              writer,
            });
            if (outcome.saved) {
              done += 1;
              running.open = claimed.length - done;
            }
            askedSeconds = Math.max(askedSeconds, outcome.askedSeconds);
          } catch (error) {
            broken ??= error;
          }
        });
      }
      await next;
    } finally {
      await writer.close();
      stop.abort();
      await recheck;
    }
    if (broken !== undefined) throw broken;
    running.signal.throwIfAborted();
    const left = claimed.length - done;
    if (deps.draining.aborted && left > 0) {
      if (!(await deps.alone())) throw new Draining(`worker drains, ${left} polls are left`);
      return { status: 'draining', done, left, askedSeconds };
    }
    await deps.snapshots.deleteAuth(input.batchId);
    return { status: 'ok', done, left, askedSeconds };

    async function runSlice(slice: readonly Claimed[], work: (entry: Claimed) => () => Promise<void>): Promise<void> {
      let open = slice.length;
      if (open === 0) return;
      await new Promise<void>((resolve) => {
        const settle = (): void => {
          open -= 1;
          if (open === 0) resolve();
        };
        const jobs = slice.map(
          (entry) =>
            new PollJob(entry.trigger.triggerId, entry.trigger.toolkit, entry.trigger.tenantId, work(entry), settle),
        );
        const drop = (): void => {
          const own = new Set<SlotJob>(jobs);
          const taken = deps.slots.withdraw((job) => own.has(job));
          for (let n = 0; n < taken; n += 1) settle();
        };
        signal.addEventListener('abort', drop, { once: true });
        deps.slots.push(jobs);
      });
    }
  });
}

class PollJob implements SlotJob {
  readonly triggerId: string;
  readonly toolkit: string;
  readonly tenantId: string;
  private readonly work: () => Promise<void>;
  private readonly settle: () => void;
  constructor(triggerId: string, toolkit: string, tenantId: string, work: () => Promise<void>, settle: () => void) {
    this.triggerId = triggerId;
    this.toolkit = toolkit;
    this.tenantId = tenantId;
    this.work = work;
    this.settle = settle;
  }
  run(): Promise<void> {
    return this.work().finally(this.settle);
  }
}

/** Reads the fence every 5 s while polls remain to be started; a job of a fenced trigger gives its slot back at once. */
async function recheckFence(deps: BatchDeps, running: RunningStep, stop: AbortSignal): Promise<void> {
  while (!stop.aborted && !running.signal.aborted) {
    try {
      await deps.clock.sleep(RECHECK_MS, AbortSignal.any([stop, running.signal]));
    } catch {
      return;
    }
    await running.check().catch((error: unknown) => {
      deps.log.warn({ batchId: running.input.batchId, error: String(error) }, 'fence.check_failed');
    });
  }
}

/** Slices of ≤ 2,500 rows and ≤ 8 MiB of state. */
function sliceByState(entries: readonly Claimed[]): Claimed[][] {
  const slices: Claimed[][] = [];
  let slice: Claimed[] = [];
  let bytes = 0;
  for (const entry of entries) {
    if (slice.length > 0 && (slice.length >= SLICE_ROWS || bytes + entry.trigger.stateBytes > SLICE_BYTES)) {
      slices.push(slice);
      slice = [];
      bytes = 0;
    }
    slice.push(entry);
    bytes += entry.trigger.stateBytes;
  }
  if (slice.length > 0) slices.push(slice);
  return slices;
}

async function statesOf(deps: BatchDeps, entries: readonly Claimed[]): Promise<ReadonlyMap<string, TriggerState>> {
  const keys: LeasedKey[] = entries.map(({ trigger }) => ({
    shard: trigger.shard,
    triggerId: trigger.triggerId,
    leaseEpoch: trigger.leaseEpoch,
  }));
  const states = await deps.store.readStates(keys);
  return new Map(states.map((state) => [state.triggerId, state]));
}
