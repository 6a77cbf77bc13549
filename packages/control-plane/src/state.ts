/** postState: one `POST /state`, classified once into the port's StateAnswer. */
import type {
  Clock,
  LifecycleEcho,
  LifecycleRecord,
  Log,
  Metrics,
  StateAnswer,
  StateResult,
  StateStatus,
} from '@milkrun/core';
import { type Exchange, type Http, pauseOf } from './http.ts';
import { parseRecords } from './json.ts';
import { lifecycleEchoSchema, printable, stateEnvelopeSchema, stateStatusSchema } from './schemas.ts';
import { idempotencyKeyOf, saysRequestTooLarge, stateBody } from './wire.ts';

export interface StateDeps {
  readonly http: Http;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly timeoutMs: number;
  readonly bytesMax: number;
}

export interface StateInput {
  readonly batchId: string;
  readonly results: readonly StateResult[];
  readonly lifecycle: readonly LifecycleRecord[];
  readonly signal?: AbortSignal;
}

export function createPostState({ http, clock, metrics, log, timeoutMs, bytesMax }: StateDeps) {
  /** Monotonic milliseconds until which the endpoint asked this process to stay away. */
  let pausedUntil = 0;

  return async function postState(input: StateInput): Promise<StateAnswer> {
    const wait = pausedUntil - clock.monotonic();
    if (wait > 0) return { kind: 'unavailable', reason: 'asked to stay away', retryAfterSeconds: wait / 1000 };
    const body = stateBody(input);
    const started = clock.monotonic();
    const exchange = await http.exchange({
      method: 'POST',
      path: '/state',
      body,
      headers: { 'idempotency-key': idempotencyKeyOf(body) },
      timeoutMs,
      bytesMax,
      signal: input.signal,
    });
    metrics.observe('polling.broadcast.duration', (clock.monotonic() - started) / 1000);
    const answer = classifyState(exchange, input, clock);
    if (answer.kind === 'unavailable' && exchange.kind === 'answer' && exchange.status === 429) {
      pausedUntil = clock.monotonic() + (answer.retryAfterSeconds ?? 1) * 1000;
    }
    if (answer.kind === 'misconfigured') log.error({ status: answer.status }, 'control_plane.state_misconfigured');
    return answer;
  };
}

/** What an exchange means for the events that were sent. Pure. */
function classifyState(exchange: Exchange, sent: Pick<StateInput, 'results' | 'lifecycle'>, clock: Clock): StateAnswer {
  const retryAfter = pauseOf(exchange, clock);
  const unavailable = (reason: string): StateAnswer => ({
    kind: 'unavailable',
    reason,
    ...(retryAfter === undefined ? {} : { retryAfterSeconds: retryAfter }),
  });
  if (exchange.kind === 'unreachable') return unavailable(exchange.reason);
  if (exchange.kind === 'over_bound') return unavailable('the answer is larger than the bound');
  const { status, headers, body } = exchange;
  if (status >= 200 && status < 300) return answered(body, sent) ?? unavailable('the answer is not usable');
  if (status === 410) return { kind: 'gone' };
  const reason = printable(body, 200);
  if (status === 400 || status === 422 || saysRequestTooLarge(status, headers, body)) {
    return { kind: 'refused', status, reason };
  }
  if (status === 429 || status >= 500 || status === 408) return unavailable(`status ${status}`);
  return { kind: 'misconfigured', status, reason };
}

/** Statuses by id: answers for triggers not sent and contradicting or double answers do not count. */
function answered(body: string, sent: Pick<StateInput, 'results' | 'lifecycle'>): StateAnswer | undefined {
  let envelope: { results: unknown[]; lifecycle: unknown[] };
  try {
    envelope = stateEnvelopeSchema.parse(parseRecords(body));
  } catch {
    return undefined;
  }
  const wanted = new Set(sent.results.map(({ triggerId }) => triggerId));
  const byTrigger = new Map<string, StateStatus[]>();
  for (const record of envelope.results) {
    const parsed = stateStatusSchema.safeParse(record);
    if (!parsed.success || !wanted.has(parsed.data.triggerId)) continue;
    const { triggerId } = parsed.data;
    byTrigger.set(triggerId, [...(byTrigger.get(triggerId) ?? []), statusOf(parsed.data)]);
  }
  const statuses = [...byTrigger.values()].flatMap((own) => (own.length === 1 || onlyRefusedEvents(own) ? own : []));
  const pending = new Map(sent.lifecycle.map((record) => [echoKey(record), record]));
  const lifecycle: LifecycleEcho[] = [];
  for (const record of envelope.lifecycle) {
    const parsed = lifecycleEchoSchema.safeParse(record);
    const own = parsed.success ? pending.get(echoKey(parsed.data)) : undefined;
    if (own !== undefined) lifecycle.push({ triggerId: own.triggerId, at: own.at });
  }
  return { kind: 'answered', statuses, lifecycle };
}

/** Times are compared as instants: the echo may be written in another notation. */
const echoKey = ({ triggerId, at }: LifecycleEcho): string => `${triggerId} ${Date.parse(at)}`;

function statusOf(data: {
  triggerId: string;
  status: StateStatus['status'];
  eventId?: string | undefined;
  reason?: string | undefined;
}): StateStatus {
  const { triggerId, status, eventId, reason } = data;
  const why = reason === undefined ? {} : { reason };
  if (status === 'accepted') return { triggerId, status };
  if (status === 'gone') return { triggerId, status, ...why };
  return { triggerId, status, ...why, ...(eventId === undefined ? {} : { eventId }) };
}

/** Several statuses of one trigger are usable only when each refuses another event. */
function onlyRefusedEvents(own: readonly StateStatus[]): boolean {
  const ids = own.map((status) => (status.status === 'rejected' ? status.eventId : undefined));
  return !ids.includes(undefined) && new Set(ids).size === ids.length;
}
