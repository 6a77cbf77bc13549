/** One run of a handler: its result as JSON, or Amazon's error JSON for what it threw, could not print, or overran. */
import type { InvokeContext, InvokeHandler } from './invoke-server.ts';

export interface Invocation {
  readonly failed: boolean;
  readonly json: string;
}

/** Never rejects. A handler that overruns `limitMs` goes on running, as nothing can stop it, but nobody listens. */
export async function invoke(
  handler: InvokeHandler,
  event: unknown,
  limitMs: number,
  context: InvokeContext,
): Promise<Invocation> {
  let timer: NodeJS.Timeout | undefined;
  const overrun = new Promise<Invocation>((resolve) => {
    timer = setTimeout(() => resolve(timedOut(context.awsRequestId, limitMs)), limitMs);
  });
  try {
    return await Promise.race([settle(handler, event, context), overrun]);
  } finally {
    clearTimeout(timer);
  }
}

async function settle(handler: InvokeHandler, event: unknown, context: InvokeContext): Promise<Invocation> {
  let result: unknown;
  try {
    result = await handler(event, context);
  } catch (error) {
    return thrown(error);
  }
  try {
    return { failed: false, json: JSON.stringify(result) ?? 'null' };
  } catch (error) {
    return marshalError('Runtime.MarshalError', `Unable to stringify response body: ${String(error)}`);
  }
}

export function marshalError(errorType: string, errorMessage: string): Invocation {
  return { failed: true, json: JSON.stringify({ errorType, errorMessage }) };
}

function thrown(error: unknown): Invocation {
  if (!(error instanceof Error)) return marshalError(typeof error, String(error));
  const { name, message, stack = '' } = error;
  return {
    failed: true,
    json: JSON.stringify({ errorType: name, errorMessage: message, trace: stack.split('\n') }),
  };
}

function timedOut(requestId: string, limitMs: number): Invocation {
  const seconds = (limitMs / 1000).toFixed(2);
  return marshalError('Sandbox.Timedout', `RequestId: ${requestId} Error: Task timed out after ${seconds} seconds`);
}
