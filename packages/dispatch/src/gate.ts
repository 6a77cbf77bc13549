/**
 * The gate in front of dispatch: while a dependency of every batch is down, nothing is dispatched.
 *
 * A closed gate would stay closed for ever if nobody called the dependency, so it lets one probe call through a minute.
 * Per process: another worker's tick may find its own gate open.
 */
import type { Clock, Log } from '@milkrun/core';

export interface Dependency {
  readonly name: 'control_plane' | 'object_store';
  /** Whether its breaker is closed; costs nothing. */
  available(): boolean;
  /** One cheap call that closes the breaker when it succeeds. */
  probe(): Promise<unknown>;
}

export interface DispatchGate {
  /** Whether batches may be dispatched now; makes the due probe calls first. */
  open(): Promise<boolean>;
}

const PROBE_EVERY_MS = 60_000;

export function createDispatchGate(deps: {
  readonly dependencies: readonly Dependency[];
  readonly clock: Clock;
  readonly log: Log;
}): DispatchGate {
  const { dependencies, clock, log } = deps;
  const probedAt = new Map<string, number>();

  async function isAvailable(dependency: Dependency): Promise<boolean> {
    if (dependency.available()) {
      probedAt.delete(dependency.name);
      return true;
    }
    const now = clock.monotonic();
    const last = probedAt.get(dependency.name);
    if (last !== undefined && now - last < PROBE_EVERY_MS) return false;
    // The first closed look only notes the time: the failures that opened the breaker are fresh enough.
    probedAt.set(dependency.name, now);
    if (last === undefined) return false;
    try {
      await dependency.probe();
    } catch (error) {
      const fields = { dependency: dependency.name, error: error instanceof Error ? error.message : String(error) };
      log.warn(fields, 'dispatch.probe_failed');
    }
    return dependency.available();
  }

  return {
    async open() {
      const answers = await Promise.all(dependencies.map(isAvailable));
      return answers.every(Boolean);
    },
  };
}
