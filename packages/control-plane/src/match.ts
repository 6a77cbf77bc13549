/** Matches the answers of one `/conn/batch` call to what was asked: by id, never by position. */
import type { ConnectionAnswer, ConnectionAsk } from '@milkrun/core';
import { connectionAnswerSchema, connectionIdentitySchema, issueText } from './schemas.ts';

export interface Matched {
  /** One answer per ask. */
  readonly answers: readonly ConnectionAnswer[];
  /** Answers that named a connection asked for by one tenant under another tenant: an alert. */
  readonly foreign: number;
  /** Answers nobody asked for. */
  readonly extra: number;
}

export const keyOf = (ask: { readonly tenantId: string; readonly connectionId: string }): string =>
  JSON.stringify([ask.tenantId, ask.connectionId]);

/**
 * A missing, extra or double id concerns only its own ask (`auth.missing`; both of a double are ignored, even if
 * equal). An answer under a tenant that did not ask makes the ask of that connection `auth.not_found`. `answeredAtMs` is
 * when the answer was made, by the clock that wrote the expiries in it.
 */
export function matchAnswers(
  asks: readonly ConnectionAsk[],
  records: readonly unknown[],
  answeredAtMs: number,
): Matched {
  const asked = new Map(asks.map((ask) => [keyOf(ask), ask]));
  const byConnection = Map.groupBy(asks, ({ connectionId }) => connectionId);
  const found = new Map<string, unknown[]>();
  const foreignIds = new Set<string>();
  let foreign = 0;
  let extra = 0;
  for (const record of records) {
    const identity = connectionIdentitySchema.safeParse(record);
    if (!identity.success) {
      extra += 1;
      continue;
    }
    const key = keyOf(identity.data);
    if (asked.has(key)) found.set(key, [...(found.get(key) ?? []), record]);
    else if (byConnection.has(identity.data.connectionId)) {
      foreign += 1;
      foreignIds.add(identity.data.connectionId);
    } else extra += 1;
  }
  const answers = asks.map((ask): ConnectionAnswer => {
    const own = found.get(keyOf(ask)) ?? [];
    if (own.length === 1 && !foreignIds.has(ask.connectionId)) return answerOf(ask, own[0], answeredAtMs);
    if (foreignIds.has(ask.connectionId) && own.length === 0) {
      return failed(ask, 'auth.not_found', 'answered for another tenant');
    }
    return failed(ask, 'auth.missing', own.length === 0 ? 'not in the answer' : 'named more than once in the answer');
  });
  return { answers, foreign, extra };
}

/** The answer for one ask without a usable record. */
export function failed(
  { connectionId, tenantId }: ConnectionAsk,
  code: Exclude<ConnectionAnswer['code'], 'ok'>,
  reason: string,
  retryAfterSeconds?: number,
): ConnectionAnswer {
  return { connectionId, tenantId, code, reason, ...(retryAfterSeconds === undefined ? {} : { retryAfterSeconds }) };
}

function answerOf(ask: ConnectionAsk, record: unknown, answeredAtMs: number): ConnectionAnswer {
  const parsed = connectionAnswerSchema.safeParse(record);
  if (!parsed.success) return failed(ask, 'auth.missing', `unusable answer: ${issueText(parsed.error)}`);
  const { connectionId, tenantId } = ask;
  if (parsed.data.status !== 'active') return failed(ask, `auth.${parsed.data.status}`, parsed.data.reason ?? '');
  const { auth, expiresAt } = parsed.data;
  const lastsMs = expiresAt === undefined ? null : Date.parse(expiresAt) - answeredAtMs;
  return { connectionId, tenantId, code: 'ok', auth, lastsMs };
}
