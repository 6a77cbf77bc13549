/**
 * What is too large is asked for in smaller pieces, for every limit from one to all. A `/conn/batch` that takes at most k
 * connections and a `/state` that takes at most k events, said in each way a platform says so: the calls stay within
 * 4·⌈n/k⌉ + 8·log2 100, every connection is answered and every event told once and in order, and the batch after it starts
 * at the size that was learned.
 */
import { eventIdOf } from '@milkrun/core';
import type { Scripted } from '@milkrun/testkit';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { withPostgres } from './lib/parts.ts';
import { randomFrom } from './lib/random.ts';
import { openRig, type Rig } from './lib/rig.ts';

const ENTRIES = 100;

/** How platforms say that a request or its answer was too large. */
const TOO_LARGE: readonly Scripted[] = [
  { status: 413 },
  { status: 500, headers: { 'x-vercel-error': 'FUNCTION_RESPONSE_PAYLOAD_TOO_LARGE' } },
  { status: 502, body: 'An error occurred: FUNCTION_RESPONSE_PAYLOAD_TOO_LARGE' },
  { status: 400, body: '{"error":{"code":"FUNCTION_PAYLOAD_TOO_LARGE"}}' },
  { status: 200, body: `{"connections":"${'x'.repeat(17 * 1024 * 1024)}"}` },
];
/** `/state` halves on these; what the others say of an answer means nothing there. */
const STATE_TOO_LARGE: readonly Scripted[] = [
  { status: 413 },
  { status: 400, body: '{"error":{"code":"FUNCTION_PAYLOAD_TOO_LARGE"}}' },
  { status: 422, body: '{"title":"too many events"}' },
];

type Report = (problem: string) => void;
interface Figures {
  tried: number;
  faults: number;
  /** Of the calls allowed, the largest share that was used. */
  callsShareMax: number;
  connCallsMax: number;
  stateCallsMax: number;
  /** Calls that were too large in the batch after the one that learned. */
  tooLargeAfterwards: number;
}

export const drill: Drill = {
  name: 'halving',
  about: 'Whatever size is too large, few calls find the one that fits, and the next batch starts with it.',
  defaults: { count: 25 },
  fullCount: ENTRIES,
  ciCount: 5,
  async run({ count, seed, log }: DrillInput): Promise<DrillResult> {
    const random = randomFrom(seed);
    let violations = 0;
    const figures: Figures = {
      tried: 0,
      faults: 0,
      callsShareMax: 0,
      connCallsMax: 0,
      stateCallsMax: 0,
      tooLargeAfterwards: 0,
    };
    const steps = Math.min(count, ENTRIES);
    await withPostgres(async (pgUrl) => {
      const conn = await openRig({ pgUrl });
      const state = await openRig({ pgUrl });
      try {
        const triggers = await conn.feed(
          Array.from({ length: ENTRIES }, (_, n) => ({ connectionId: `c${n}`, tenantId: `t${n % 3}` })),
        );
        await conn.round();
        const [sender] = (await state.feed([{}])) as [string];
        await state.round();
        for (let step = 0; step < steps; step += 1) {
          // All limits at the full count; spread over them, both ends included, below it.
          const limit = 1 + Math.round((step * (ENTRIES - 1)) / Math.max(1, steps - 1));
          const say = (ways: readonly Scripted[]): Scripted => ways[Math.floor(random() * ways.length)] as Scripted;
          const report: Report = (problem) => {
            violations += 1;
            log(`violation: at most ${limit}: ${problem}`);
          };
          await askAtMost(conn, triggers, limit, say(TOO_LARGE), figures, report);
          await sendAtMost(state, sender, step, limit, say(STATE_TOO_LARGE), figures, report);
          figures.tried += 2;
        }
        for (const rig of [conn, state]) if ((await rig.leases()) > 0) violations += 1;
      } finally {
        await conn.close();
        await state.close();
      }
    });
    const callsShareMax = Number(figures.callsShareMax.toFixed(3));
    return { ...figures, callsShareMax, violations, entries: ENTRIES };
  },
};

const callsMax = (limit: number): number => 4 * Math.ceil(ENTRIES / limit) + 8 * Math.log2(100);

/** Two batches against a `/conn/batch` that takes at most `limit` connections. */
async function askAtMost(
  rig: Rig,
  triggers: readonly string[],
  limit: number,
  tooLarge: Scripted,
  figures: Figures,
  report: Report,
): Promise<void> {
  await rig.newControlPlane();
  rig.controlPlane.conn = (asks) => (asks.length > limit ? tooLarge : undefined);
  let learned = 0;
  for (const batch of ['learning', 'next'] as const) {
    rig.controlPlane.connCalls.length = 0;
    rig.source.calls.length = 0;
    await rig.makeDue();
    await rig.round();
    const calls = rig.controlPlane.connCalls;
    const refused = calls.filter((asks) => asks.length > limit);
    const answered = calls.filter((asks) => asks.length <= limit).flat();
    figures.faults += refused.length;
    figures.connCallsMax = Math.max(figures.connCallsMax, calls.length);
    figures.callsShareMax = Math.max(figures.callsShareMax, calls.length / callsMax(limit));
    if (calls.length > callsMax(limit)) report(`${calls.length} calls of /conn/batch in the ${batch} batch`);
    if (answered.length !== ENTRIES || new Set(answered.map(({ connectionId }) => connectionId)).size !== ENTRIES) {
      report(`${answered.length} connections were answered in the ${batch} batch`);
    }
    const polled = new Set(rig.source.calls.map((call) => call.trigger.id));
    if (polled.size !== triggers.length) report(`${polled.size} triggers were polled in the ${batch} batch`);
    if (batch === 'learning') {
      learned = Math.max(...calls.map((asks) => asks.length).filter((size) => size <= limit));
      continue;
    }
    figures.tooLargeAfterwards += refused.length;
    const first = calls[0]?.length ?? 0;
    // Twenty good calls in a row double it: a try that may be too large once, and never starts over at the top.
    if (first < Math.min(learned, ENTRIES) || first > Math.min(2 * learned, ENTRIES)) {
      report(`the next batch began with ${first} connections, and ${learned} had been learned`);
    }
  }
}

/** One batch whose trigger has 100 new events, against a `/state` that takes at most `limit`. */
async function sendAtMost(
  rig: Rig,
  triggerId: string,
  step: number,
  limit: number,
  tooLarge: Scripted,
  figures: Figures,
  report: Report,
): Promise<void> {
  const keys = Array.from({ length: ENTRIES }, (_, n) => `step-${step}-item-${n}`);
  rig.source.add(triggerId, ...keys);
  rig.controlPlane.stateCalls.length = 0;
  const told = rig.controlPlane.byTrigger.get(triggerId)?.length ?? 0;
  rig.controlPlane.state = (results) =>
    results.reduce((sum, result) => sum + result.events.length, 0) > limit ? tooLarge : undefined;
  await rig.makeDue();
  await rig.round();
  const calls = rig.controlPlane.stateCalls.length;
  const sizes = rig.controlPlane.stateCalls.map((results) =>
    results.reduce((sum, { events }) => sum + events.length, 0),
  );
  figures.faults += sizes.filter((size) => size > limit).length;
  figures.stateCallsMax = Math.max(figures.stateCallsMax, calls);
  figures.callsShareMax = Math.max(figures.callsShareMax, calls / callsMax(limit));
  if (calls > callsMax(limit)) report(`${calls} calls of /state`);
  const ids = rig.controlPlane.byTrigger.get(triggerId)?.slice(told) ?? [];
  const wanted = keys.map((key) => eventIdOf(triggerId, key));
  if (ids.length !== wanted.length || ids.some((id, at) => id !== wanted[at])) {
    report(`${ids.length} of ${wanted.length} events were told, or not in order`);
  }
}
