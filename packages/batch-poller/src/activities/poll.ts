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
import { type ChainInput, pollChain, skipPoll } from '../poll-chain.ts';
import type { SlotJob } from '../poll-slots.ts';
import { readFolded } from '../read-batch.ts';
import { type AuthRecord, authKeyOf } from '../snapshot/records.ts';
import { handOver, type RunningStep, runStep, type StepContext, type StepResult } from '../step.ts';
import { isUsableFor } from './fetch-auth.ts';

type Claimed = Extract<FoldedEntry, { state: 'claimed' }>;

/** An entry that may be polled, with the auth of its connection. */
interface Ready {
  readonly entry: Claimed;
  readonly record: AuthRecord;
}

const SLICE_ROWS = 2_500;
const SLICE_BYTES = 8 * 1024 * 1024;
const RECHECK_MS = 5_000;
/** As commit decides on `source_down`. */
const DOWN_POLLS_MIN = 20;

export async function poll(deps: BatchDeps, input: BatchPollerInput, context: StepContext): Promise<StepResult> {
  const budgetMs = STEP_BUDGET_SECONDS.poll * 1000;
  return runStep(deps, { step: 'poll', budgetMs, input, context }, async (running) => {
    const [folded, auth] = await Promise.all([readFolded(deps, input), deps.snapshots.readAuth(input.batchId)]);
    const claimed = folded.filter(
      (entry): entry is Claimed => entry.state === 'claimed' && !running.fenced.has(entry.trigger.triggerId),
    );
    const ready: Ready[] = [];
    for (const entry of claimed) {
      const record = auth.get(authKeyOf(entry.trigger.tenantId, entry.trigger.connectionId));
      if (isUsableFor(entry, record, input.retryCounter, running.now())) ready.push({ entry, record });
    }
    running.open = claimed.length;
    const stop = new AbortController();
    const signal = AbortSignal.any([running.signal, deps.draining, stop.signal]);
    const writer = deps.snapshots.resultWriter(input.batchId, input.retryCounter, context.attempt);
    let done = 0;
    let askedSeconds = 0;
    const recheck = recheckFence(deps, running, stop.signal);
    // One failure to write results stops the step: pages that cannot be saved must not be polled for.
    let broken: unknown;
    const tally = new ToolkitTally();
    const line = deps.slots.createLine();
    signal.addEventListener('abort', () => deps.slots.withdraw(line), { once: true });
    try {
      const slices = sliceByState(ready);
      const pushed: Promise<void>[] = [];
      let waitingBytes = 0;
      let next = slices[0] && statesOf(deps, slices[0].entries);
      // Nobody waits for it when the step has been aborted meanwhile: a failure must not end the process then.
      next?.catch(() => {});
      for (let at = 0; at < slices.length && !signal.aborted && broken === undefined; at += 1) {
        const slice = slices[at] as Slice;
        let states: ReadonlyMap<string, TriggerState>;
        try {
          states = await (next as Promise<ReadonlyMap<string, TriggerState>>);
        } catch (error) {
          broken ??= error;
          break;
        }
        const following = slices[at + 1];
        next = following && statesOf(deps, following.entries);
        next?.catch(() => {});
        const queuedAt = deps.clock.monotonic();
        const { started, settled } = pushSlice(slice.entries, async ({ entry, record }) => {
          deps.metrics.observe('polling.poll.slot_wait', (deps.clock.monotonic() - queuedAt) / 1000);
          if (signal.aborted || broken !== undefined || deps.clock.monotonic() > running.budgetEnd) return;
          const may = running.mayStart(entry.trigger.triggerId);
          if (!(typeof may === 'boolean' ? may : await may)) return;
          if (!isUsableFor(entry, record, input.retryCounter, running.now())) return;
          try {
            const chain: ChainInput = {
              batchId: input.batchId,
              hop: input.retryCounter,
              attempt: context.attempt,
              trigger: entry.trigger,
              state: states.get(entry.trigger.triggerId),
              auth: record.auth,
              signal,
              budgetEnd: running.budgetEnd,
              mayGoOn: () => running.mayStart(entry.trigger.triggerId),
              writer,
            };
            const { toolkit } = entry.trigger;
            const isDown = tally.isDown(toolkit);
            const outcome = isDown ? await skipPoll(deps, chain) : await pollChain(deps, chain);
            if (!isDown) tally.count(toolkit, outcome.failed === true);
            if (outcome.saved) {
              done += 1;
              running.open = claimed.length - done;
            }
            askedSeconds = Math.max(askedSeconds, outcome.askedSeconds);
          } catch (error) {
            broken ??= error;
          }
        });
        pushed.push(settled);
        // Small states: all slices of a batch stand in line together, so that batches end one after the other and the next
        // is claimed meanwhile. Large ones: no more in memory than is being started.
        waitingBytes += slice.bytes;
        if (waitingBytes > SLICE_BYTES / 2) {
          await started;
          waitingBytes = 0;
        }
      }
      await Promise.all(pushed);
    } finally {
      await writer.close();
      stop.abort();
      await recheck;
    }
    if (broken !== undefined) throw broken;
    running.signal.throwIfAborted();
    const left = claimed.length - done;
    if (deps.draining.aborted && left > 0) return await handOver(deps, { done, left, askedSeconds });
    await deps.snapshots.deleteAuth(input.batchId);
    return { status: 'ok', done, left, askedSeconds };

    /** Queues the polls of a slice; told when each has won a slot, and when each has ended. Both also when the step aborts. */
    function pushSlice(entries: readonly Ready[], work: (ready: Ready) => Promise<void>) {
      const started = countdown(entries.length);
      const settled = countdown(entries.length);
      deps.slots.push(
        entries.map((entry) => new PollJob(entry, work, started.count, settled.count)),
        line,
      );
      return { started: started.done, settled: settled.done };
    }
  });
}

/**
 * How the toolkits of one step fare. One that hangs must not keep the batch from committing what is done until each of its
 * polls has run into its deadline: once it would be `source_down` at commit, the rest of its polls are not made.
 */
class ToolkitTally {
  private readonly toolkits = new Map<string, { polls: number; failures: number }>();

  count(toolkit: string, failed: boolean): void {
    let tally = this.toolkits.get(toolkit);
    if (tally === undefined) {
      tally = { polls: 0, failures: 0 };
      this.toolkits.set(toolkit, tally);
    }
    tally.polls += 1;
    if (failed) tally.failures += 1;
  }

  isDown(toolkit: string): boolean {
    const tally = this.toolkits.get(toolkit);
    return tally !== undefined && tally.polls >= DOWN_POLLS_MIN && tally.failures * 2 > tally.polls;
  }
}

function countdown(from: number): { readonly done: Promise<void>; readonly count: () => void } {
  const { promise, resolve } = Promise.withResolvers<void>();
  let left = from;
  const count = (): void => {
    left -= 1;
    if (left === 0) resolve();
  };
  return { done: promise, count };
}

class PollJob implements SlotJob {
  readonly toolkit: string;
  readonly tenantId: string;
  private readonly ready: Ready;
  private readonly work: (ready: Ready) => Promise<void>;
  private readonly started: () => void;
  private readonly settled: () => void;
  constructor(ready: Ready, work: (ready: Ready) => Promise<void>, started: () => void, settled: () => void) {
    const { toolkit, tenantId } = ready.entry.trigger;
    this.toolkit = toolkit;
    this.tenantId = tenantId;
    this.ready = ready;
    this.work = work;
    this.started = started;
    this.settled = settled;
  }
  async run(): Promise<void> {
    this.started();
    try {
      await this.work(this.ready);
    } finally {
      this.settled();
    }
  }
  drop(): void {
    this.started();
    this.settled();
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

interface Slice {
  readonly entries: Ready[];
  /** Of state, as claim answered it. */
  bytes: number;
}

/** Slices of ≤ 2,500 rows and ≤ 8 MiB of state. */
function sliceByState(all: readonly Ready[]): Slice[] {
  const slices: Slice[] = [];
  let slice: Slice | undefined;
  for (const ready of all) {
    const { stateBytes } = ready.entry.trigger;
    if (slice === undefined || slice.entries.length >= SLICE_ROWS || slice.bytes + stateBytes > SLICE_BYTES) {
      slice = { entries: [], bytes: 0 };
      slices.push(slice);
    }
    slice.entries.push(ready);
    slice.bytes += stateBytes;
  }
  return slices;
}

async function statesOf(deps: BatchDeps, entries: readonly Ready[]): Promise<ReadonlyMap<string, TriggerState>> {
  const keys: LeasedKey[] = entries.map(({ entry: { trigger } }) => ({
    shard: trigger.shard,
    triggerId: trigger.triggerId,
    leaseEpoch: trigger.leaseEpoch,
  }));
  const states = await deps.store.readStates(keys);
  return new Map(states.map((state) => [state.triggerId, state]));
}
