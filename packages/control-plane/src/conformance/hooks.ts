/** What the kit needs to be given to look behind the three endpoints; each hook left out leaves its checks out. */
import type { Probe } from './probe.ts';

export interface KitTrigger {
  readonly triggerId: string;
  readonly tenantId: string;
  readonly toolkit: string;
  readonly connectionId: string;
}

/** What a user sees of a trigger that the engine stopped. */
export interface ShownTrigger {
  /** Whether it is being polled, as the user is told. */
  readonly on: boolean;
  /** The code the user is shown, or null. */
  readonly code: string | null;
  /** RFC 3339: since when it is off, or null. */
  readonly since: string | null;
  /** Who turned it off, in any words, or null. */
  readonly by: string | null;
}

export interface ConformanceHooks {
  /** Makes a trigger with its own working connection. May be called many times at once. */
  createTrigger?(): Promise<KitTrigger>;
  /** Any change of the trigger that raises its configVersion. */
  changeTrigger?(triggerId: string): Promise<void>;
  deleteTrigger?(triggerId: string): Promise<void>;
  /** The connection stops being usable (revoked or expired). */
  revokeConnection?(connectionId: string): Promise<void>;
  /** What the user sees. */
  showTrigger?(triggerId: string): Promise<ShownTrigger>;
  /** Ids of the events stored for the trigger. */
  storedEventIds?(triggerId: string): Promise<readonly string[]>;
}

export interface Check {
  readonly name: string;
  /** Hooks without which the check cannot be made. */
  readonly needs: readonly (keyof ConformanceHooks)[];
  run(context: KitContext): Promise<void>;
}

export interface KitContext {
  readonly probe: Probe;
  readonly hooks: Required<ConformanceHooks>;
  /** A trigger made once for checks that only need some trigger. */
  trigger(): Promise<KitTrigger>;
}

/** A failed expectation; its message is the detail of the check. */
export class Unmet extends Error {
  override readonly name = 'Unmet';
}

export function expect(condition: unknown, detail: string): asserts condition {
  if (!condition) throw new Unmet(detail);
}
