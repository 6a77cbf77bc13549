/** Pure helpers of the wire: bodies, header values, what counts as too large. */
import { createHash } from 'node:crypto';
import type { ConnectionAsk, LifecycleRecord, StateResult } from '@milkrun/core';

/** Longest pause a Retry-After may ask for, in seconds. */
const RETRY_AFTER_MAX = 86_400;

/** Body of `POST /state`; events are spliced as the text they are. */
export function stateBody(input: {
  readonly batchId: string;
  readonly results: readonly StateResult[];
  readonly lifecycle: readonly LifecycleRecord[];
}): string {
  const results = input.results.map((result) => {
    const pollState = result.pollState === undefined ? '' : `,"pollState":${JSON.stringify(result.pollState)}`;
    return (
      `{"triggerId":${JSON.stringify(result.triggerId)},"leaseEpoch":${result.leaseEpoch},` +
      `"configVersion":${result.configVersion},` +
      `"triggerVersion":${JSON.stringify(result.triggerVersion)},"events":[${result.events.join(',')}],` +
      `"last":${result.last}${pollState}}`
    );
  });
  const lifecycle = input.lifecycle.map(({ triggerId, configVersion, state, code, at }) =>
    JSON.stringify({ triggerId, configVersion, state, code, at }),
  );
  return `{"batchId":${JSON.stringify(input.batchId)},"results":[${results.join(',')}],"lifecycle":[${lifecycle.join(',')}]}`;
}

/** Body of `POST /conn/batch`. */
export function connectionsBody(asks: readonly ConnectionAsk[]): string {
  return JSON.stringify({
    connections: asks.map(({ connectionId, tenantId, toolkit, triggerIds }) => ({
      connectionId,
      tenantId,
      toolkit,
      triggerIds,
    })),
  });
}

/** The `Idempotency-Key` of a body: lower-case hex sha256. */
export function idempotencyKeyOf(body: string): string {
  return createHash('sha256').update(body, 'utf8').digest('hex');
}

/** Header values as undici gives them. */
export type HeaderValues = Readonly<Record<string, string | string[] | undefined>>;

const TOO_LARGE = /FUNCTION_(?:RESPONSE_)?PAYLOAD_TOO_LARGE/;

/** Whether an answer that is no success says that the request or the answer was too large, by status, header or body. */
export function saysTooLarge(status: number, headers: HeaderValues, body: string): boolean {
  if (status === 413) return true;
  return TOO_LARGE.test(body) || Object.values(headers).some((value) => TOO_LARGE.test(String(value)));
}

/** As `saysTooLarge`, for the request alone. */
export function saysRequestTooLarge(status: number, headers: HeaderValues, body: string): boolean {
  const all = [body, ...Object.values(headers).map(String)];
  return status === 413 || all.some((text) => /FUNCTION_PAYLOAD_TOO_LARGE/.test(text));
}

/**
 * Seconds a `Retry-After` asks for. A date is taken relative to the answer's own `Date`, so a wrong clock on either side
 * does not matter; without a usable `Date` the caller's `nowMs` stands in. Undefined when absent or not understood.
 */
export function retryAfterSeconds(headers: HeaderValues, nowMs: number): number | undefined {
  const value = single(headers['retry-after'])?.trim();
  if (value === undefined || value === '') return undefined;
  if (/^\d{1,9}(\.\d{1,3})?$/.test(value)) return Math.min(Number(value), RETRY_AFTER_MAX);
  const at = Date.parse(value);
  if (Number.isNaN(at)) return undefined;
  const seconds = (at - answeredAt(headers, nowMs)) / 1000;
  return Math.min(Math.max(seconds, 0), RETRY_AFTER_MAX);
}

/** When an answer was made by its own clock, milliseconds since the epoch; `nowMs` stands in where it does not say. */
export function answeredAt(headers: HeaderValues, nowMs: number): number {
  const date = Date.parse(single(headers.date) ?? '');
  return Number.isNaN(date) ? nowMs : date;
}

function single(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value;
}
