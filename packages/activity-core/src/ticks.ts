/**
 * Ticks of a cron trigger, with the published rule for clock changes.
 *
 * The wall clock is matched literally. A time in a gap has no tick, or with `gap: shift` one at the first minute after the
 * gap. A time that occurs twice is one tick (the first) with `repeat: once`, two with `both`. Without a choice a fixed hour
 * is meant once and a `*` or a step both times.
 */
import type { CronExpression } from './cron-expression.ts';
import type { Zone } from './zone.ts';

export interface TickRule {
  readonly cron: CronExpression;
  readonly zone: Zone;
  readonly repeat: 'once' | 'both';
  readonly gap: 'skip' | 'shift';
}

export interface Tick {
  /** The instant, or null for a time in a gap that is skipped. */
  readonly at: number | null;
  /** What the wall clock shows: `2026-03-29T02:30`. */
  readonly local: string;
  readonly flag: 'gap' | 'repeat' | null;
  /** False: shown in a preview, but no run comes of it. */
  readonly runs: boolean;
}

/** How an instant at which a schedule fired stands to the expression. */
export type Naming = 'named' | 'shifted' | 'unnamed';

/** `2026-03-29T02:30` of a wall clock time in milliseconds as if it were UTC. */
export function localText(wallMs: number): string {
  return new Date(wallMs).toISOString().slice(0, 16);
}

/** The ticks after `afterMs`, in order of their instants, without end; those that do not run are among them. */
export function* ticksAfter(rule: TickRule, afterMs: number): Generator<Tick> {
  const { cron, zone, gap } = rule;
  let from = afterMs;
  let wall = cron.nextAfter(zone.wallAt(afterMs));
  while (wall !== undefined) {
    const end = zone.endOfStretch(from);
    const stretchWall = zone.wallAt(end - 1) + 1;
    const nextWall = zone.wallAt(end);
    for (; wall !== undefined && wall < stretchWall; wall = cron.nextAfter(wall))
      yield tickOf(rule, wall, wall - stretchWall + end);
    // What the clock jumps over has no instant of its own; where it is set back, times are gone through again.
    for (; wall !== undefined && wall < nextWall; wall = cron.nextAfter(wall)) {
      yield { at: gap === 'shift' ? end : null, local: localText(wall), flag: 'gap', runs: gap === 'shift' };
    }
    if (nextWall < stretchWall) wall = cron.nextAfter(nextWall - 1);
    from = end;
  }
}

function tickOf({ zone, repeat }: TickRule, wall: number, at: number): Tick {
  const instants = zone.instantsOf(wall);
  const local = localText(wall);
  if (instants.length < 2) return { at, local, flag: null, runs: true };
  return { at, local, flag: 'repeat', runs: repeat === 'both' || at === instants[0] };
}

/** The next `count` ticks, for a preview. */
export function nextTicks(rule: TickRule, afterMs: number, count: number): Tick[] {
  const ticks: Tick[] = [];
  for (const tick of ticksAfter(rule, afterMs)) {
    if (ticks.length === count) break;
    ticks.push(tick);
  }
  return ticks;
}

/** Instants of the ticks that run in (`afterMs`, `untilMs`], in order; at most `max` of them, then `more` is true. */
export function dueTicks(
  rule: TickRule,
  afterMs: number,
  untilMs: number,
  max: number,
): { readonly ticks: readonly number[]; readonly more: boolean } {
  const ticks: number[] = [];
  for (const { at, runs } of ticksAfter(rule, afterMs)) {
    if (at === null) continue;
    if (at > untilMs) break;
    if (!runs || ticks.at(-1) === at) continue;
    if (ticks.length === max) return { ticks, more: true };
    ticks.push(at);
  }
  return { ticks, more: false };
}

/**
 * Whether the expression names the instant. The server also fires instants that no expression names, at the end of summer
 * time; those are told apart here.
 */
export function namingOf(rule: TickRule, ms: number): Naming {
  const wall = rule.zone.wallAt(ms);
  if (rule.cron.matches(wall)) return 'named';
  if (rule.gap === 'shift') {
    // A shifted tick stands at the end of a gap: some named time before it has no instant.
    const before = rule.zone.wallAt(ms - 60_000) + 60_000;
    for (let at = before; at < wall; at += 60_000) if (rule.cron.matches(at)) return 'shifted';
  }
  return 'unnamed';
}

/** What makes two instants the same tick: the wall clock time where a repeated time is meant once, else the instant. */
export function tickKeyOf(rule: TickRule, ms: number): string {
  return rule.repeat === 'once' ? `${localText(rule.zone.wallAt(ms))}[${rule.zone.name}]` : new Date(ms).toISOString();
}
