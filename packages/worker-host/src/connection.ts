/**
 * The one connection of a process and its keeper.
 *
 * The first connect is retried (the SDK does not). A server that vanishes and returns is survived by the SDK, so an
 * unanswered probe changes nothing but readiness; only a *refused* one (credentials turned down, connection closed)
 * means that the connection is lost and a new one has to be made.
 */
import type { Clock, Log, Metrics } from '@milkrun/core';
import { NativeConnection, type NativeConnectionOptions } from '@temporalio/worker';
import { type Backoff, backoffMs } from './restarts.ts';

export interface HostConnection {
  readonly native: NativeConnection;
  /** A cheap call over this very connection; rejects within its own deadline. */
  probe(): Promise<void>;
  /** Rejects while a worker still holds the connection. */
  close(): Promise<void>;
}

export type ConnectionFactory = () => Promise<HostConnection>;

const PROBE_DEADLINE_MS = 3_000;
const REFUSED_CODES = new Set([7, 16]);

/** A factory for a Temporal server. The probe describes the namespace: it needs the server, its store and our rights. */
export function temporalConnection(
  options: NativeConnectionOptions & { readonly namespace: string },
  clock: Clock,
): ConnectionFactory {
  const { namespace, ...rest } = options;
  return async () => {
    const native = await NativeConnection.connect(rest);
    return {
      native,
      async probe() {
        const deadline = clock.now() + PROBE_DEADLINE_MS;
        await native.withDeadline(deadline, () => native.workflowService.describeNamespace({ namespace }));
      },
      close: () => native.close(),
    };
  };
}

/** Whether the far side said no, as opposed to nothing. */
export function isRefused(error: unknown): boolean {
  const { code, name } = (error ?? {}) as { code?: unknown; name?: unknown };
  return name === 'IllegalStateError' || (typeof code === 'number' && REFUSED_CODES.has(code));
}

/** Whether the error only says that the server can not be reached now. */
export function isUnreachable(error: unknown): boolean {
  const { code, message } = (error ?? {}) as { code?: unknown; message?: unknown };
  if (code === 4 || code === 14) return true;
  return (
    typeof message === 'string' &&
    /unavailable|transport error|tcp connect|connection (refused|reset|error)|deadline|timed? ?out|timeout expired/i.test(
      message,
    )
  );
}

export interface ConnectionKeeper {
  /** The live connection; waits for it as long as it takes, or rejects with the signal's reason. */
  current(signal: AbortSignal): Promise<HostConnection>;
  /** The connection as it is now, without waiting. */
  peek(): HostConnection | undefined;
  /** Forgets a lost connection; the next `current` makes a new one. False when it was no longer the current one. */
  lose(link: HostConnection): boolean;
  close(): Promise<void>;
}

export function createConnectionKeeper(deps: {
  readonly connect: ConnectionFactory;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly backoff: Backoff;
}): ConnectionKeeper {
  const { clock, log, metrics } = deps;
  const closing = new AbortController();
  let link: HostConnection | undefined;
  let connecting: Promise<HostConnection> | undefined;

  async function connect(): Promise<HostConnection> {
    for (let failures = 0; ; ) {
      closing.signal.throwIfAborted();
      try {
        const made = await deps.connect();
        if (closing.signal.aborted) {
          await release(made);
          closing.signal.throwIfAborted();
        }
        link = made;
        return made;
      } catch (error) {
        closing.signal.throwIfAborted();
        failures += 1;
        const waitMs = backoffMs(deps.backoff, failures);
        metrics.count('worker_host.connect_failures');
        log.warn({ failures, waitMs, error: messageOf(error) }, 'worker.connect_failed');
        await clock.sleep(waitMs, closing.signal);
      }
    }
  }

  async function release(old: HostConnection): Promise<void> {
    try {
      await old.close();
    } catch (error) {
      // A worker that failed without ever settling keeps its reference for good; the process outlives one handle.
      log.warn({ error: messageOf(error) }, 'worker.connection_not_closed');
    }
  }

  return {
    async current(signal) {
      if (link !== undefined) return link;
      connecting ??= connect().finally(() => {
        connecting = undefined;
      });
      return await withSignal(connecting, signal);
    },
    peek: () => link,
    lose(old) {
      if (link !== old) return false;
      link = undefined;
      return true;
    },
    async close() {
      closing.abort(new Error('the worker host is closing'));
      await connecting?.catch(() => undefined);
      const old = link;
      link = undefined;
      if (old !== undefined) await release(old);
    },
  };
}

/** The promise's outcome, or the signal's reason when that comes first; never leaves a listener behind. */
async function withSignal<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => reject(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
