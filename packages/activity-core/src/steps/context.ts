/** Context sources: each is resolved by a step of its own, and a failure is a failure, never an empty answer. */
import type { RunRecord } from '@milkrun/core';
import { ApplicationFailure } from '@temporalio/activity';
import type { ActivityDefinition, ContextSource } from '../definition.ts';
import { durationMs } from '../duration.ts';
import { render } from '../template.ts';
import { OutboundFailed, type RunDeps } from './deps.ts';

const ANSWER_BYTES_MAX = 2 * 1024 * 1024;
const ROWS_MAX = 10_000;

export const definitionOf = (run: RunRecord): ActivityDefinition => JSON.parse(run.spec) as ActivityDefinition;

/** The roots that are the same for sources, rules and tasks. */
export function runRoots(run: RunRecord) {
  const { name, labels } = definitionOf(run) as ActivityDefinition & { labels?: readonly string[] };
  return {
    event: run.event,
    run: { id: run.runId, now: run.firedAt, scheduledFor: run.scheduledFor, dryRun: run.dryRun },
    activity: {
      id: run.activityId,
      slug: run.slug,
      version: run.version,
      name: name ?? run.slug,
      ...(labels ? { labels } : {}),
    },
  };
}

/** The value of a source, JSON data. Throws ApplicationFailure `context`, retryable where another try can help. */
export async function resolveSource(
  deps: RunDeps,
  run: RunRecord,
  name: string,
  source: ContextSource,
  signal: AbortSignal,
): Promise<unknown> {
  const fail = (message: string, retryable: boolean): ApplicationFailure =>
    ApplicationFailure.create({ type: 'context', message: `context.${name}: ${message}`, nonRetryable: !retryable });
  const timeoutMs = durationMs(source.timeout);
  try {
    if (source.http !== undefined) return await overHttp(deps, run, source.http, timeoutMs, signal);
    if (source.sql !== undefined) {
      const { connection, query, params = [] } = source.sql;
      if (!deps.sql.has(connection)) throw fail(`there is no SQL connection ${connection}`, false);
      const values = render(params, runRoots(run), 'params') as unknown[];
      return await deps.sql.query({ connection, query, params: values, rowsMax: ROWS_MAX, timeoutMs });
    }
    if (source.events !== undefined) {
      const { type, last, within } = source.events;
      return await deps.store.recentEvents(run.tenantId, { type, last, withinMs: durationMs(within) });
    }
    return source.static ?? null;
  } catch (error) {
    if (error instanceof ApplicationFailure) throw error;
    const retryable = error instanceof OutboundFailed ? error.retryable : !(error instanceof Refusal);
    throw fail((error as Error).message, retryable);
  }
}

/** Something that is wrong with the definition or the answer: asking again gives the same. */
class Refusal extends Error {}

async function overHttp(
  { http }: RunDeps,
  run: RunRecord,
  source: NonNullable<ContextSource['http']>,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<unknown> {
  const { url, headers = {}, query = {} } = rendered(source, run);
  const target = new URL(url);
  for (const [key, value] of Object.entries(query)) target.searchParams.set(key, String(value));
  const answer = await http.send({
    url: target.href,
    method: 'GET',
    headers: { accept: 'application/json', ...headers },
    body: null,
    timeoutMs,
    answerBytesMax: ANSWER_BYTES_MAX,
    signal,
  });
  if (answer.status < 200 || answer.status > 299) {
    throw new OutboundFailed(`${target.origin} answered ${answer.status}`, isWorthAnotherTry(answer.status));
  }
  try {
    return JSON.parse(answer.body.toString()) as unknown;
  } catch {
    throw new Refusal(`${target.origin} answered what is not JSON`);
  }
}

function rendered(source: NonNullable<ContextSource['http']>, run: RunRecord) {
  try {
    return render(source, runRoots(run), 'http') as {
      url: string;
      headers?: Record<string, string>;
      query?: Record<string, unknown>;
    };
  } catch (error) {
    throw new Refusal((error as Error).message);
  }
}

export const isWorthAnotherTry = (status: number): boolean =>
  status >= 500 || status === 408 || status === 425 || status === 429;
