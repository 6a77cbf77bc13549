/**
 * An answer of the Invoke API as a reply: whose fault it is, decided before anybody retries.
 *
 * 200 is the function's word, 200 with X-Amz-Function-Error the connector's failure, 429 a throttle, everything else
 * the platform's: a wrong permission or a missing function must never halt triggers. The exception is a request the
 * platform will never take (too large, not JSON): that is the trigger's own and permanent.
 */
import type { PollReply } from '@milkrun/core';
import { messageOf, readAnswer } from './read-answer.ts';
import { retryAfterSeconds } from './retry-after.ts';

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Buffer;
}

const THROTTLES = new Set(['TooManyRequestsException', 'ThrottlingException', 'Throttling', 'RequestLimitExceeded']);
const NEVER_TAKEN = new Set([
  'RequestTooLargeException',
  'RequestEntityTooLargeException',
  'InvalidRequestContentException',
]);

export function replyOf(answer: Answer): PollReply {
  const { status, headers, body } = answer;
  const date = headerText(headers.date);
  if (status === 200) {
    return headers['x-amz-function-error'] === undefined ? readAnswer(body, date) : functionErrorReply(body);
  }
  const type = errorTypeOf(answer);
  if (status === 429 || THROTTLES.has(type)) return throttleReply(answer, date);
  const message = messageOf(platformMessage(body), 'no message');
  if (status === 413 || NEVER_TAKEN.has(type)) {
    return { code: 'poll.permanent', message: `the poll function's platform refuses the request: ${message}` };
  }
  return { code: 'poll.unavailable', message: `the Invoke API answered ${status} ${type}: ${message}` };
}

/** True for what tells of the platform's health: 5xx. A 4xx is an answer, however unwelcome. */
export function isPlatformFailure(answer: Answer): boolean {
  return answer.status >= 500 && !THROTTLES.has(errorTypeOf(answer));
}

/** True when other credentials may help. */
export function areCredentialsRefused(answer: Answer): boolean {
  return answer.status === 401 || answer.status === 403;
}

function functionErrorReply(body: Buffer): PollReply {
  const fields = fieldsOf(body);
  const type = messageOf(fields.errorType, 'Error');
  const message = messageOf(`${type}: ${messageOf(fields.errorMessage, 'no message')}`, type);
  if (type === 'Sandbox.Timedout' || /\bTask timed out after\b/.test(message)) return { code: 'poll.timeout', message };
  if (type === 'Function.ResponseSizeTooLarge') return { code: 'poll.too_large', message };
  return { code: 'poll.connector_error', message };
}

function throttleReply({ headers, body }: Answer, date: string | undefined): PollReply {
  const fields = fieldsOf(body);
  const throttle = messageOf(fields.Reason ?? fields.reason, 'unknown');
  const message = messageOf(fields.message ?? fields.Message, 'the poll function is throttled');
  const seconds =
    retryAfterSeconds(headerText(headers['retry-after']), date) ?? retryAfterSeconds(fields.retryAfterSeconds, date);
  return seconds === undefined
    ? { code: 'poll.throttled', message, throttle }
    : { code: 'poll.throttled', message, throttle, retryAfterSeconds: seconds };
}

/** `X-Amzn-ErrorType` may carry a namespace behind a colon. */
function errorTypeOf({ headers }: Answer): string {
  const text = headerText(headers['x-amzn-errortype']) ?? '';
  return messageOf(text.split(':')[0], 'error').slice(0, 100);
}

function platformMessage(body: Buffer): unknown {
  const fields = fieldsOf(body);
  return fields.message ?? fields.Message;
}

function fieldsOf(body: Buffer): Readonly<Record<string, unknown>> {
  try {
    const parsed: unknown = JSON.parse(body.toString());
    return typeof parsed === 'object' && parsed !== null ? (parsed as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}

function headerText(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value;
}
