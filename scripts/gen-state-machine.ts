/**
 * Renders the tables of `docs/state-machine.md` that code already holds: transitions, verdicts, other codes, budgets.
 *
 * `node scripts/gen-state-machine.ts` writes them between their markers; a test fails while the page is stale. What an edge
 * means is said here, once for each: an edge without a sentence, or a sentence without an edge, is an error.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import {
  type AtCommit,
  type EntryStateName,
  haltCodeOf,
  type InBatch,
  OTHER_CODES,
  STEP_BUDGET_SECONDS,
  TRANSITIONS,
  VERDICTS,
  type Verdict,
  type VerdictCode,
} from '../packages/core/src/index.ts';

export const STATE_MACHINE_DOC = new URL('../docs/state-machine.md', import.meta.url);

/** `from → to`: the step in which it happens, and the event. */
const EDGES: Readonly<Record<string, readonly [step: string, event: string]>> = {
  'claimed → authorized': ['fetchAuth', 'usable auth of its connection has been stored'],
  'claimed → failed': ['fetchAuth', 'the connection was answered with a code that does not halt'],
  'claimed → halted': ['fetchAuth', 'the connection was answered expired, revoked or not found'],
  'claimed → fenced': ['any', 'a change took the row from the batch'],
  'authorized → polled': ['poll', 'the first page was saved with its events'],
  'authorized → failed': ['poll', 'the poll ended with a code that does not halt'],
  'authorized → halted': [
    'poll, commit',
    'credentials refused twice in one epoch; or a permanent or unusable answer that reaches its limit',
  ],
  'authorized → fenced': ['any', 'a change took the row from the batch'],
  'authorized → claimed': [
    'next hop',
    'not polled in this hop: out of budget, drained, or its auth would have run out',
  ],
  'polled → delivered': ['broadcast', 'every event was accepted or went to dead letters'],
  'polled → polled': ['broadcast', 'parked: the receiver did not take everything this time'],
  'polled → failed': ['poll', 'a later page listed more keys than can be remembered, and nothing had been delivered'],
  'polled → halted': ['broadcast', 'the receiver answered that nobody wants the events'],
  'polled → committed': ['commit', 'there was nothing to deliver; or, forced, what was delivered is kept'],
  'polled → fenced': ['any', 'a change took the row from the batch; it delivers nothing more'],
  'delivered → committed': ['commit', 'cursor, keys and version of the delivered result were written'],
  'delivered → fenced': ['any', 'a change took the row from the batch; its events come again with equal ids'],
  'failed → committed': ['commit', 'the verdict’s outcome was written'],
  'failed → claimed': ['next hop', 'the verdict is one that the next hop tries again'],
  'failed → fenced': ['any', 'a change took the row from the batch'],
  'halted → committed': ['commit', 'the halt was written, with its lifecycle record'],
  'halted → fenced': ['any', 'a change took the row from the batch; the halt is dropped'],
};

const IN_BATCH: Readonly<Record<InBatch, string>> = {
  stop: 'stop',
  next_hop: 'next hop tries again',
  fresh_auth: 'fresh auth in the next hop, once an epoch; then stop',
  park: 'parked, next hop delivers',
  continue: 'the event leaves, the rest goes on',
};

function atCommitText(code: VerdictCode, atCommit: AtCommit): string {
  const halt = `halted \`${haltCodeOf(code)}\``;
  switch (atCommit) {
    case 'halt':
      return halt;
    case 'halt_after_3':
      return `back-off, failure + 1, warnings; ${halt} when that makes three own failures in a row`;
    case 'quarantine_after_5':
      return `back-off, poison + 1; ${halt} when that makes five unusable answers in a row`;
    case 'backoff':
      return 'back-off, failure + 1';
    case 'rate_limited':
      return 'next poll at Retry-After (24 h at most), counters unchanged';
    case 'release':
      return 'forced: released, counters unchanged, still due';
    case 'advance':
      return 'the cursor moves on';
  }
}

const states = Object.keys(TRANSITIONS) as EntryStateName[];
const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');

function matrix(): string {
  const rows = states.map((from) => [
    `**${from}**`,
    ...states.map((to) => (TRANSITIONS[from].includes(to) ? 'yes' : '·')),
  ]);
  return table(['from \\ to', ...states], rows);
}

function edges(): string {
  const wanted = states.flatMap((from) => TRANSITIONS[from].map((to) => `${from} → ${to}`));
  const odd = [
    ...wanted.filter((edge) => EDGES[edge] === undefined),
    ...Object.keys(EDGES).filter((e) => !wanted.includes(e)),
  ];
  if (odd.length > 0) throw new Error(`EDGES and TRANSITIONS differ in: ${odd.join(', ')}`);
  return table(
    ['edge', 'step', 'event'],
    wanted.map((edge) => [edge, ...(EDGES[edge] as readonly [string, string])]),
  );
}

function verdicts(): string {
  const rows = (Object.entries(VERDICTS) as [VerdictCode, Verdict][]).map(([code, verdict]) => [
    `\`${code}\``,
    verdict.class,
    IN_BATCH[verdict.inBatch],
    atCommitText(code, verdict.atCommit),
    verdict.meaning,
  ]);
  return table(['code', 'whose fault', 'in this batch', 'at commit', 'meaning'], rows);
}

const others = (): string =>
  table(
    ['code', 'meaning'],
    Object.entries(OTHER_CODES).map(([code, meaning]) => [`\`${code}\``, meaning]),
  );

const budgets = (): string =>
  table(
    ['step', 'starts nothing new after'],
    Object.entries(STEP_BUDGET_SECONDS).map(([step, seconds]) => [step, `${seconds} s`]),
  );

const SECTIONS: Readonly<Record<string, () => string>> = { matrix, edges, verdicts, others, budgets };

/** The page with its generated parts made anew. Throws when a pair of markers is missing. */
export function renderStateMachineDoc(page: string): string {
  let text = page;
  for (const [name, render] of Object.entries(SECTIONS)) {
    const [begin, end] = [`<!-- generated: ${name} -->`, `<!-- end: ${name} -->`];
    const [from, to] = [text.indexOf(begin), text.indexOf(end)];
    if (from < 0 || to < from) throw new Error(`docs/state-machine.md lacks the markers ${begin} … ${end}`);
    text = `${text.slice(0, from + begin.length)}\n\n${render()}\n\n${text.slice(to)}`;
  }
  return text;
}

if (import.meta.main) {
  writeFileSync(STATE_MACHINE_DOC, renderStateMachineDoc(readFileSync(STATE_MACHINE_DOC, 'utf8')));
}
