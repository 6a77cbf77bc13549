/**
 * Conditions: generated expressions evaluated by ours and by a second implementation of the language that shares no code with
 * it; and expressions made to cost much, which the bounds have to stop.
 */
import { isCelError, run } from '@bufbuild/cel';
import { ConditionFailed, ConditionRefused, celRoots, compileCondition } from '@milkrun/activity-core';
import { celDataOf, celExpression } from './lib/cel-expressions.ts';
import { verdicts } from './lib/fleet-rig.ts';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { randomFrom } from './lib/random.ts';

const ROOTS = ['event', 'context'];

type Answer = 'true' | 'false' | 'error' | 'refused';

export const drill: Drill = {
  name: 'conditions',
  about: 'A condition gives what a second implementation of the language gives, and none costs more than its bounds.',
  defaults: { count: 100_000 },
  fullCount: 100_000,
  ciCount: 5_000,
  async run({ count, seed, log }: DrillInput): Promise<DrillResult> {
    const found = verdicts(log);
    const random = randomFrom(seed);
    const answers: Record<Answer, number> = { true: 0, false: 0, error: 0, refused: 0 };
    for (let n = 0; n < count; n += 1) {
      const source = celExpression(random);
      const data = celDataOf(random);
      const own = ownAnswer(source, data as never);
      answers[own.answer] += 1;
      if (own.answer === 'refused') continue;
      const other = otherAnswer(source, data as never);
      if (own.answer !== other.answer) {
        found.missed(
          `${source} over ${JSON.stringify(data)}: ours ${own.answer} (${own.why}), other ${other.answer} (${other.why})`,
        );
      }
    }
    if (answers.refused > count / 3) found.missed(`${answers.refused} of ${count} were refused: too few were compared`);
    for (const kind of ['true', 'false', 'error'] as const) if (answers[kind] === 0) found.missed(`none gave ${kind}`);
    return { tried: count, violations: found.count, answers, ...hostile(random, found.missed) };
  },
};

const LONG = Array.from({ length: 1_000 }, (_, n) => n);
/** What one evaluation may cost: far above what the bounds allow on any machine, far below what an unbounded one takes. */
const HOSTILE_MS_MAX = 1_000;

/** Expressions that would cost much: each has to be refused when it is saved, or fail within its bounds. */
function hostile(random: () => number, missed: (what: string) => void) {
  const nested = (depth: number): string =>
    depth === 0 ? 'true' : `context.long.all(x${depth}, ${nested(depth - 1)})`;
  const repeated = (text: string, by: string, n: number): string => Array.from({ length: n }, () => text).join(by);
  const n = 2 + Math.floor(random() * 3);
  const sources = [
    ...Array.from({ length: 4 }, (_, depth) => nested(depth + 2)),
    'context.longer.exists(x, x > 0)',
    'context.long.map(x, context.long).all(l, l.all(y, y >= 0))',
    'context.long.filter(x, context.long.exists(y, y == x)).size() > 0',
    '"a".matches("(a+)+$")',
    `${repeated('context.text', ' + ', 200)} == ""`,
    `${'('.repeat(500)}true${')'.repeat(500)}`,
    `${'!'.repeat(3_000)}true`,
    `${repeated('true', ' && ', 300)}`,
    `[${repeated('1', ',', 200)}].all(x, x > 0)`,
    `size("${'x'.repeat(5_000)}") > 0`,
    `${'[0]'.repeat(n)}${'['.repeat(300)}`,
    'event.constructor.constructor("return process")() == 1',
    'event.__proto__ == 1',
    'event["constructor"] == 1',
    'context.text.toString() == ""',
    'eval("1") == 1',
  ];
  const data = { event: {}, context: { long: LONG, longer: [...LONG, 0], text: 'a'.repeat(30) } };
  const roots = celRoots(data);
  let slowestMs = 0;
  for (const source of sources) {
    let answer = 'gave an answer';
    const startedAt = performance.now();
    try {
      answer = `gave ${compileCondition(source, ROOTS).holds(roots)}`;
    } catch (error) {
      if (error instanceof ConditionRefused || error instanceof ConditionFailed) answer = '';
      else throw error;
    }
    const ms = performance.now() - startedAt;
    slowestMs = Math.max(slowestMs, ms);
    if (answer !== '') missed(`a hostile expression ${answer}: ${source.slice(0, 100)}`);
    if (ms > HOSTILE_MS_MAX) missed(`a hostile expression took ${ms.toFixed(0)} ms: ${source.slice(0, 100)}`);
  }
  // The bounds let through what they promise: a list of their length, gone through as often as they say.
  const allowed = compileCondition('[1, 2, 3, 4, 5].all(n, context.long.all(x, x >= 0 && n > 0))', ROOTS);
  if (!allowed.holds(roots)) missed('what is within the bounds does not hold');
  return { hostile: sources.length, slowestHostileMs: Number(slowestMs.toFixed(1)) };
}

interface Given {
  readonly answer: Answer;
  readonly why: string;
}

function ownAnswer(source: string, data: Readonly<Record<string, unknown>>): Given {
  try {
    const condition = compileCondition(source, ROOTS);
    return { answer: condition.holds(celRoots(data)) ? 'true' : 'false', why: '' };
  } catch (error) {
    if (error instanceof ConditionRefused) return { answer: 'refused', why: error.message };
    if (error instanceof ConditionFailed) return { answer: 'error', why: error.message };
    throw error;
  }
}

function otherAnswer(source: string, data: Readonly<Record<string, unknown>>): Given {
  const result = run(source, inputOf(data) as Record<string, never>);
  if (isCelError(result)) return { answer: 'error', why: String(result) };
  if (typeof result !== 'boolean') return { answer: 'error', why: `gave ${typeof result}` };
  return { answer: result ? 'true' : 'false', why: '' };
}

/** JSON data as the other one takes it: whole numbers are integers. */
function inputOf(value: unknown): unknown {
  if (typeof value === 'number') return Number.isSafeInteger(value) ? BigInt(value) : value;
  if (Array.isArray(value)) return value.map(inputOf);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, inputOf(member)]));
}
