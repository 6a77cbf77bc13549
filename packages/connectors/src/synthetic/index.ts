/**
 * synthetic: a provider that exists only in arithmetic, for fleets, load tests and drills.
 *
 * Time is cut into slots of 60 s ÷ rate (`phase` moves them); each slot holds one item, whose key, time and content follow from seed and
 * slot alone. So the same item has the same key whoever asks and whenever, and what a trigger must have delivered can
 * be worked out afterwards (`syntheticSlots`). Latency and failures are drawn from seed, trigger and time.
 */
import { z } from 'zod';
import { defineConnector, type PollContext, type PollItem, type PollResult } from '../connector.ts';
import { type ErrorClass, PollError } from '../errors.ts';
import { draw } from './draw.ts';
import { HOSTILE_MODES, hostileResult } from './hostile.ts';

const MINUTE_MS = 60_000;
const OVERLAP_SECONDS = 60;
/** What a first poll lists without `since`; a trigger is polled within its interval of its creation. */
const FIRST_MINUTES = 10;

const probability = z.number().min(0).max(1).default(0);

const configSchema = z.strictObject({
  ratePerMinute: z.number().positive().max(60_000).default(1).describe('Items a minute'),
  phase: z.number().min(0).max(1).default(0).describe('Share of a slot by which all items are later'),
  seed: z.string().max(128).optional().describe('Default: the trigger’s id, so each trigger has its own items'),
  pageSize: z.int().positive().max(10_000).default(100),
  relist: z.int().min(0).max(1_000).default(0).describe('Known items listed again at each poll'),
  dataBytes: z.int().min(0).max(2_000_000).default(0).describe('Filler in each item’s data'),
  latencyMs: z.number().min(0).max(600_000).default(0),
  tail: z
    .strictObject({ share: z.number().min(0).max(1), latencyMs: z.number().min(0).max(600_000) })
    .optional()
    .describe('Share of polls that take longer'),
  failures: z
    .strictObject({
      transient: probability,
      rate_limited: probability,
      auth: probability,
      permanent: probability,
      connector: probability,
      crash: probability,
    })
    .refine((shares) => Object.values(shares).reduce((sum, share) => sum + share, 0) <= 1, 'add up to more than 1')
    .prefault({}),
  retryAfterSeconds: z.int().positive().max(86_400).default(30).describe('With rate_limited'),
  hostile: z
    .strictObject({ mode: z.enum(HOSTILE_MODES), share: z.number().min(0).max(1).default(1) })
    .optional()
    .describe('Answers that no connector should give'),
});

type SyntheticConfig = z.output<typeof configSchema>;

const cursorSchema = z.object({ slot: z.int() });

export const synthetic = defineConnector({
  toolkit: 'synthetic',
  slug: 'synthetic',
  title: 'Synthetic items',
  version: '1',
  configSchema,
  eventSchema: z.object({ slot: z.int(), value: z.number(), filler: z.string().optional() }),
  dedupe: 'watermark',
  overlapSeconds: OVERLAP_SECONDS,
  defaultIntervalSeconds: 60,
  minimumIntervalSeconds: 1,
  repeatable: true,
  poll,
});

async function poll(context: PollContext<SyntheticConfig>): Promise<PollResult> {
  const { config, trigger, clock, signal } = context;
  const now = clock.now();
  const drawn = (what: string): number => draw(what, seedOf(config, trigger.id), trigger.id, now);
  const { latencyMs, tail } = config;
  const waitMs = tail !== undefined && drawn('tail') < tail.share ? tail.latencyMs : latencyMs;
  if (waitMs > 0) await clock.sleep(waitMs, signal);
  signal.throwIfAborted();
  failIfDrawn(config, drawn('failure'));
  if (config.hostile !== undefined && drawn('hostile') < config.hostile.share) {
    return hostileResult(config.hostile.mode, signal);
  }
  return pageOf(context, now);
}

function pageOf(
  { config, trigger, cursor, since, eventsMax }: PollContext<SyntheticConfig>,
  nowMs: number,
): PollResult {
  const newest = slotAt(config, nowMs);
  const pageSize = Math.min(config.pageSize, eventsMax);
  const from = firstSlot(config, cursor, since, newest);
  const to = Math.min(newest, from + pageSize - 1);
  const events: PollItem[] = [];
  const known = Math.min(config.relist, Math.max(0, pageSize - (to - from + 1)));
  for (let slot = Math.max(0, from - known); slot <= to; slot += 1) events.push(itemOf(config, trigger.id, slot));
  return { events, cursor: { slot: Math.max(to, from - 1) }, ...(to < newest ? { more: true } : {}) };
}

/** The first slot not yet read. A first poll without `since` goes back a little, to the trigger's creation. */
function firstSlot(config: SyntheticConfig, cursor: unknown, since: string | undefined, newest: number): number {
  if (cursor === null) {
    const slot =
      since === undefined ? newest - config.ratePerMinute * FIRST_MINUTES : slotOf(config, Date.parse(since));
    return Math.max(0, Math.ceil(slot));
  }
  const parsed = cursorSchema.safeParse(cursor);
  if (!parsed.success) throw new PollError('permanent', 'the cursor is not one of this connector');
  return parsed.data.slot + 1;
}

function failIfDrawn({ failures, retryAfterSeconds }: SyntheticConfig, drawn: number): void {
  let above = 0;
  for (const [name, share] of Object.entries(failures)) {
    above += share;
    if (drawn >= above) continue;
    if (name === 'crash') throw new TypeError('a crash the configuration asks for');
    throw new PollError(name as ErrorClass, 'a failure the configuration asks for', {
      retryAfter: name === 'rate_limited' ? retryAfterSeconds : undefined,
    });
  }
}

const slotOf = ({ ratePerMinute, phase }: SyntheticConfig, ms: number): number =>
  (ms * ratePerMinute) / MINUTE_MS - phase;
const slotAt = (config: SyntheticConfig, ms: number): number => Math.floor(slotOf(config, ms));
const seedOf = ({ seed }: SyntheticConfig, triggerId: string): string => seed ?? triggerId;

function itemOf(config: SyntheticConfig, triggerId: string, slot: number): PollItem {
  const seed = seedOf(config, triggerId);
  const occurredAt = new Date(Math.ceil(((slot + config.phase) * MINUTE_MS) / config.ratePerMinute)).toISOString();
  const filler = config.dataBytes === 0 ? {} : { filler: 'x'.repeat(config.dataBytes) };
  return { key: syntheticKey(slot), occurredAt, data: { slot, value: draw('value', seed, slot), ...filler } };
}

/** Key of a slot's item. */
export function syntheticKey(slot: number): string {
  return `slot-${slot}`;
}

/** Slots a trigger must have seen between two times, both included: what a drill compares deliveries with. */
export function syntheticSlots(
  ratePerMinute: number,
  fromMs: number,
  toMs: number,
  phase = 0,
): { first: number; last: number } {
  return {
    first: Math.ceil((fromMs * ratePerMinute) / MINUTE_MS - phase),
    last: Math.floor((toMs * ratePerMinute) / MINUTE_MS - phase),
  };
}
