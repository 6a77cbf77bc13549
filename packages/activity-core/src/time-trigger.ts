/** A definition's cron entry as the pure parts want it. */
import { parseCron } from './cron-expression.ts';
import type { CronEntry } from './definition.ts';
import { durationMs } from './duration.ts';
import type { MisfirePolicy } from './misfire.ts';
import type { TickRule } from './ticks.ts';
import { zoneOf } from './zone.ts';

/** Of a validated entry. */
export function tickRuleOf(entry: CronEntry): TickRule {
  const cron = parseCron(entry.cron, entry.dom_dow === 'and');
  const repeat = entry.dst.repeat ?? (cron.isFixedHour ? 'once' : 'both');
  return { cron, zone: zoneOf(entry.timezone), repeat, gap: entry.dst.gap };
}

/** Older names of policies resolved. */
export function misfirePolicyOf({ misfire }: CronEntry): MisfirePolicy {
  const { policy, grace, window, max } = misfire;
  const limits = { graceMs: durationMs(grace), windowMs: durationMs(window) };
  if (policy === 'catchup_all') return { policy: 'catchup', ...limits, max: Number.POSITIVE_INFINITY };
  if (policy === 'catchup_latest') return { policy: 'compress', ...limits, max };
  return { policy, ...limits, max };
}
