/** Answers that no connector should give, one per way an answer can be wrong: food for the engine's own checks. */
import type { PollResult } from '../connector.ts';

export const HOSTILE_MODES = [
  'hang',
  'not_an_object',
  'no_cursor',
  'events_no_list',
  'cursor_too_large',
  'cursor_with_nul',
  'cursor_lone_surrogate',
  'answer_too_large',
  'answer_over_limit',
  'bad_item',
  'key_too_long',
  'key_with_nul',
  'data_with_nul',
  'proto',
  'endless',
  'unknown_class',
] as const;
export type HostileMode = (typeof HOSTILE_MODES)[number];

const MIB = 1024 * 1024;
const good = { key: 'good', data: { value: 1 } };

/** Typed as a result, which it is not: that is the point. */
export async function hostileResult(mode: HostileMode, signal: AbortSignal): Promise<PollResult> {
  if (mode === 'hang') await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
  return ANSWERS[mode as Exclude<HostileMode, 'hang'>]() as PollResult;
}

const ANSWERS: Readonly<Record<Exclude<HostileMode, 'hang'>, () => unknown>> = {
  not_an_object: () => [good],
  no_cursor: () => ({ events: [good] }),
  events_no_list: () => ({ events: { length: 1, 0: good }, cursor: null }),
  cursor_too_large: () => ({ events: [good], cursor: 'x'.repeat(20_000) }),
  cursor_with_nul: () => ({ events: [good], cursor: 'a\0b' }),
  cursor_lone_surrogate: () => ({ events: [good], cursor: 'a\ud800b' }),
  answer_too_large: () => ({ events: [{ ...good, data: 'x'.repeat(2 * MIB) }], cursor: null }),
  answer_over_limit: () => ({ events: [{ ...good, data: 'x'.repeat(7 * MIB) }], cursor: null }),
  bad_item: () => ({ events: [good, 7, null, { key: 'no data' }, { key: '', data: 1 }], cursor: { slot: 0 } }),
  key_too_long: () => ({ events: [good, { key: 'k'.repeat(513), data: 1 }], cursor: { slot: 0 } }),
  key_with_nul: () => ({ events: [{ key: 'a\0', data: 1 }], cursor: { slot: 0 } }),
  data_with_nul: () => ({ events: [{ key: 'nul', data: { text: 'a\0b\ud800' } }], cursor: { slot: 0 } }),
  proto: () => JSON.parse('{"events":[{"key":"p","data":{"__proto__":{"admin":true}}}],"cursor":{"__proto__":1}}'),
  endless: () => ({ events: [], cursor: { slot: 0 }, more: true }),
  unknown_class: () => ({ error: { class: 'mystery', message: 'no such class' } }),
};
