/**
 * One trigger without a batch: the poll, broadcast and commit steps over records in memory. The legacy pipeline polls by it,
 * so that both pipelines tell new from known, name events and judge errors by the same code.
 */
import type {
  AloneInput,
  AlonePoller,
  ClaimedTrigger,
  CommitRow,
  ConnectionAnswer,
  ConnectionAsk,
} from '@milkrun/core';
import { parcelOf } from './activities/broadcast.ts';
import { decideRow } from './decide-row.ts';
import { deliverLane } from './deliver.ts';
import type { DeliverDeps, PollDeps } from './deps.ts';
import { type FoldedEntry, foldEntries, isDelivered } from './fold.ts';
import { pollChain } from './poll-chain.ts';
import type { DeliveredRecord, ResultRecord, Stored, VerdictRecord } from './snapshot/records.ts';

type AloneDeps = PollDeps & DeliverDeps;

const OBJECT = 'alone';

/** The width belongs to the process, whichever pipeline polls. */
export function createAlonePoller(deps: AloneDeps): AlonePoller {
  return (input) => {
    const { toolkit, tenantId } = input.trigger;
    const done = Promise.withResolvers<CommitRow | undefined>();
    const run = () => pollAlone(deps, input).then(done.resolve, done.reject);
    deps.slots.push([{ toolkit, tenantId, run }]);
    return done.promise;
  };
}

async function pollAlone(deps: AloneDeps, input: AloneInput): Promise<CommitRow | undefined> {
  const results: Stored<ResultRecord>[] = [];
  const verdicts: VerdictRecord[] = [];
  const delivered: DeliveredRecord[] = [];
  const folded = (hop: number): FoldedEntry => {
    const [entry] = foldEntries({ entries: [input.trigger], verdicts, results, delivered, hop });
    return entry as FoldedEntry;
  };
  const budgetEnd = deps.clock.monotonic() + input.budgetMs;
  // A second hop only for credentials that the provider refused: they are fetched once more.
  for (let hop = 0; hop < 2; hop += 1) {
    const answer = await authOf(deps, input);
    if (answer.code !== 'ok') {
      verdicts.push(verdictOf(input.trigger, hop, answer));
      break;
    }
    if (!(await input.mayPoll())) return undefined;
    await pollChain(deps, {
      ...{ batchId: input.runId, hop, attempt: 1, trigger: input.trigger, state: input.state },
      ...{ auth: answer.auth, signal: input.signal, budgetEnd, mayGoOn: input.mayPoll },
      writer: {
        append(record) {
          results.push({ record, at: { object: OBJECT, line: results.length } });
          return undefined;
        },
        close: async () => {},
      },
    });
    if (input.signal.aborted) return undefined;
    const entry = folded(hop);
    if (!(entry.state === 'failed' && entry.code === 'poll.auth_rejected' && entry.authRejections < 2)) break;
  }
  const polled = folded(1);
  if (polled.state === 'polled' && (!isDelivered(polled) || input.held.length > 0)) {
    await deliverLane(deps, [parcelOf(polled, input.held, input.state)], {
      batchId: input.runId,
      signal: input.signal,
      mayStart: () => deps.controlPlane.available(),
      brake: () => false,
      isFenced: () => false,
      record: async (records) => void delivered.push(...records),
    });
  }
  const decision = decideRow(folded(1), input.state, true);
  return decision.kind === 'row' ? decision.row : undefined;
}

async function authOf(deps: AloneDeps, { trigger, signal }: AloneInput): Promise<ConnectionAnswer> {
  const { connectionId, tenantId, toolkit, triggerId } = trigger;
  const ask: ConnectionAsk = { connectionId, tenantId, toolkit, triggerIds: [triggerId] };
  const answers = await deps.controlPlane.fetchConnections([ask], { signal });
  const missing = { connectionId, tenantId, code: 'auth.missing', reason: 'no answer for the connection' } as const;
  return answers.find((answer) => answer.connectionId === connectionId && answer.tenantId === tenantId) ?? missing;
}

function verdictOf(
  { triggerId, leaseEpoch }: ClaimedTrigger,
  hop: number,
  answer: Exclude<ConnectionAnswer, { code: 'ok' }>,
): VerdictRecord {
  const { code, reason, retryAfterSeconds } = answer;
  return {
    ...{ triggerId, leaseEpoch, hop, code, reason },
    ...(retryAfterSeconds === undefined ? {} : { retryAfterSeconds }),
  };
}
