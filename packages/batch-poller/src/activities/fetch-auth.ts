/**
 * fetchAuth: ask the control plane for the credentials of every connection that has entries to poll.
 *
 * In: `claimed`. Out: `authorized`, or a verdict. Window: `/conn/batch`.
 * Again: only connections without readable, still usable auth. Answers are matched by (tenant, connection), never by
 * position; credentials of one trigger never reach another's poll.
 */
import { type BatchPollerInput, type ConnectionAnswer, type ConnectionAsk, STEP_BUDGET_SECONDS } from '@milkrun/core';
import type { BatchDeps } from '../deps.ts';
import type { FoldedEntry } from '../fold.ts';
import { readFolded } from '../read-batch.ts';
import { type AuthRecord, authKeyOf, type VerdictRecord } from '../snapshot/records.ts';
import { handOver, runStep, type StepContext, type StepResult } from '../step.ts';

type Claimed = Extract<FoldedEntry, { state: 'claimed' }>;

export async function fetchAuth(deps: BatchDeps, input: BatchPollerInput, context: StepContext): Promise<StepResult> {
  return runStep(deps, { step: 'auth', budgetMs: STEP_BUDGET_SECONDS.auth * 1000, input, context }, async (running) => {
    const folded = await readFolded(deps, input);
    const pending = folded.filter(
      (entry): entry is Claimed => entry.state === 'claimed' && !running.fenced.has(entry.trigger.triggerId),
    );
    running.open = pending.length;
    const untouched = { done: 0, left: pending.length };
    if (deps.draining.aborted) return await handOver(deps, untouched);
    const known = await deps.snapshots.readAuth(input.batchId);
    const byConnection = new Map<string, { ask: ConnectionAsk; entries: Claimed[]; triggerIds: string[] }>();
    for (const entry of pending) {
      const { tenantId, connectionId, toolkit, triggerId } = entry.trigger;
      const key = authKeyOf(tenantId, connectionId);
      if (isUsableFor(entry, known.get(key), input.retryCounter, running.now())) continue;
      const found = byConnection.get(key);
      if (found === undefined) {
        const triggerIds = [triggerId];
        byConnection.set(key, { ask: { connectionId, tenantId, toolkit, triggerIds }, entries: [entry], triggerIds });
      } else {
        found.entries.push(entry);
        found.triggerIds.push(triggerId);
      }
    }
    const auth: AuthRecord[] = [];
    const verdicts: VerdictRecord[] = [];
    const take = (answer: ConnectionAnswer): void => {
      const asked = byConnection.get(authKeyOf(answer.tenantId, answer.connectionId));
      if (asked === undefined) return;
      if (answer.code === 'ok') {
        const { connectionId, tenantId, lastsMs } = answer;
        const fetchedAtMs = running.now();
        const expiresAtMs = lastsMs === null ? null : fetchedAtMs + lastsMs;
        auth.push({ connectionId, tenantId, auth: answer.auth, expiresAtMs, fetchedAtMs, hop: input.retryCounter });
        return;
      }
      const retryAfter = answer.retryAfterSeconds === undefined ? {} : { retryAfterSeconds: answer.retryAfterSeconds };
      for (const entry of asked.entries) {
        const { triggerId, leaseEpoch } = entry.trigger;
        verdicts.push({
          triggerId,
          leaseEpoch,
          hop: input.retryCounter,
          code: answer.code,
          reason: answer.reason,
          ...retryAfter,
        });
      }
    };
    if (byConnection.size > 0) {
      const asked = new AbortController();
      const late = new AbortController();
      deps.clock.sleep(STEP_BUDGET_SECONDS.auth * 1000, asked.signal).then(
        () => late.abort(new Error('the budget of the step is used up')),
        () => {},
      );
      const signal = AbortSignal.any([running.signal, deps.draining, late.signal]);
      const asks = [...byConnection.values()].map((wanted) => wanted.ask);
      try {
        // Taken as they come: how long they last counts from then. What only the end brings is taken then.
        const taken = new Set<ConnectionAnswer>();
        const takeAll = (answers: readonly ConnectionAnswer[]): void => {
          for (const answer of answers) if (!taken.has(answer)) take(answer);
          for (const answer of answers) taken.add(answer);
        };
        takeAll(await deps.controlPlane.fetchConnections(asks, { signal, onAnswers: takeAll }));
      } catch (error) {
        if (deps.draining.aborted && !running.signal.aborted) return await handOver(deps, untouched);
        throw error;
      } finally {
        asked.abort(new Error('answered'));
      }
    }
    if (auth.length > 0) await deps.snapshots.writeAuth(input.batchId, input.retryCounter, context.attempt, auth);
    if (verdicts.length > 0)
      await deps.snapshots.writeVerdicts(input.batchId, input.retryCounter, context.attempt, 0, verdicts);
    const askedSeconds = Math.max(0, ...verdicts.map((verdict) => verdict.retryAfterSeconds ?? 0));
    return { status: 'ok', done: pending.length - verdicts.length, left: verdicts.length, askedSeconds };
  });
}

const SHORT_MS = 60_000;

/** Whether a poll of the entry may start with this auth in this hop. */
export function isUsableFor(
  entry: Claimed,
  record: AuthRecord | undefined,
  hop: number,
  nowMs: number,
): record is AuthRecord {
  // What the provider has refused once is not offered again: only what was fetched since.
  if (entry.authRejections > 0 && record?.hop !== hop) return false;
  return isUsable(record, nowMs);
}

/** Not within 60 s of its expiry, except that auth which arrived that short is used until it expires. */
function isUsable(record: AuthRecord | undefined, nowMs: number): record is AuthRecord {
  if (record === undefined) return false;
  if (record.expiresAtMs === null) return true;
  const arrivedShort = record.expiresAtMs - record.fetchedAtMs <= SHORT_MS;
  return nowMs < record.expiresAtMs - (arrivedShort ? 0 : SHORT_MS);
}
