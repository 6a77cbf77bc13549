/**
 * The conformance kit: is this a control plane the engine can work with?
 *
 * `runConformance` makes every check it is given the means for, against the live endpoints. It leaves behind what its
 * hooks created. Never run it with the key of an engine that is in production: its reads move nothing, but its `/state`
 * calls store events.
 */
import { ACCESS_CHECKS } from './access-checks.ts';
import { CONNECTION_CHECKS } from './connection-checks.ts';
import { FEED_CHECKS } from './feed-checks.ts';
import { type Check, type ConformanceHooks, type KitContext, type KitTrigger, Unmet } from './hooks.ts';
import { createProbe } from './probe.ts';
import { STATE_CHECKS } from './state-checks.ts';

export type { ConformanceHooks, KitTrigger, ShownTrigger } from './hooks.ts';

export interface ConformanceResult {
  readonly name: string;
  /** `left_out`: the hooks it needs were not given; it proves nothing. */
  readonly outcome: 'pass' | 'fail' | 'left_out';
  readonly detail: string;
}

export interface ConformanceOptions {
  /** Base URL of the three endpoints. */
  readonly url: string;
  /** The engine's key. */
  readonly key: string;
  readonly hooks?: ConformanceHooks;
}

const CHECKS: readonly Check[] = [...ACCESS_CHECKS, ...FEED_CHECKS, ...CONNECTION_CHECKS, ...STATE_CHECKS];

/** Runs the checks one after another; never throws for what the control plane does. */
export async function runConformance({
  url,
  key,
  hooks = {},
}: ConformanceOptions): Promise<readonly ConformanceResult[]> {
  const probe = createProbe(url, key);
  let shared: Promise<KitTrigger> | undefined;
  const context: KitContext = {
    probe,
    hooks: hooks as Required<ConformanceHooks>,
    trigger() {
      shared ??= (hooks as Required<ConformanceHooks>).createTrigger();
      return shared;
    },
  };
  const results: ConformanceResult[] = [];
  try {
    for (const check of CHECKS) results.push(await resultOf(check, context, hooks));
  } finally {
    await probe.close();
  }
  return results;
}

async function resultOf(check: Check, context: KitContext, hooks: ConformanceHooks): Promise<ConformanceResult> {
  const { name } = check;
  const missing = check.needs.filter((need) => hooks[need] === undefined);
  if (missing.length > 0) return { name, outcome: 'left_out', detail: `needs the hooks ${missing.join(', ')}` };
  try {
    await check.run(context);
    return { name, outcome: 'pass', detail: '' };
  } catch (error) {
    const detail = error instanceof Unmet ? error.message : `the check broke off: ${String(error)}`;
    return { name, outcome: 'fail', detail };
  }
}
