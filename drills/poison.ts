/**
 * Hostile data of every kind among healthy triggers, in one batch: what is wrong costs its own trigger alone. After the
 * first hop every healthy row is committed, with its event told once; after the last one no lease is left, and each bad row
 * has come to the end its kind is named for.
 */
import { eventIdOf } from '@milkrun/core';
import type { Scripted, SentResult } from '@milkrun/testkit';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { withPostgres } from './lib/parts.ts';
import { ITEM, POISON_KINDS, type PoisonKind } from './lib/poison-kinds.ts';
import { randomFrom, shuffled } from './lib/random.ts';
import { openRig, type Rig, type RigRow } from './lib/rig.ts';

const ENTRIES = 1_000;
const HEALTHY_CONNECTIONS = 20;

type Report = (problem: string) => void;

export const drill: Drill = {
  name: 'poison',
  about: 'Hostile data costs its own trigger alone: every healthy row commits on the first pass, no lease is left.',
  defaults: { count: 4 },
  fullCount: 20,
  ciCount: 1,
  async run({ count, seed, log }: DrillInput): Promise<DrillResult> {
    const random = randomFrom(seed);
    const sum = { tried: 0, violations: 0, faults: 0, healthyFirstPass: 0, healthy: 0, leasesLeft: 0 };
    const codes = new Set<string>();
    const report: Report = (problem) => {
      sum.violations += 1;
      log(`violation: ${problem}`);
    };
    await withPostgres(async (pgUrl) => {
      for (let batch = 1; batch <= count; batch += 1) {
        const rig = await openRig({ pgUrl });
        try {
          await runBatch(rig, random, sum, codes, report);
        } finally {
          await rig.close();
        }
        log(`batch ${batch} of ${count}: ${sum.healthyFirstPass} of ${sum.healthy} healthy rows on the first pass`);
      }
    });
    if (({} as { polluted?: unknown }).polluted !== undefined) report('a prototype was polluted');
    return { ...sum, kinds: POISON_KINDS.length, entriesPerBatch: ENTRIES, codes: [...codes].toSorted() };
  },
};

interface Sum {
  tried: number;
  faults: number;
  healthyFirstPass: number;
  healthy: number;
  leasesLeft: number;
}

async function runBatch(rig: Rig, random: () => number, sum: Sum, codes: Set<string>, report: Report): Promise<void> {
  const places = shuffled(
    Array.from({ length: ENTRIES }, (_, n) => n),
    random,
  );
  const perKind = Math.floor(ENTRIES / 10 / POISON_KINDS.length) || 1;
  const kindAt = new Map(
    places
      .slice(0, perKind * POISON_KINDS.length)
      .map((place, n) => [place, POISON_KINDS[n % POISON_KINDS.length] as PoisonKind]),
  );
  const ids = await rig.feed(
    Array.from({ length: ENTRIES }, (_, n) => ({
      tenantId: `tenant-${n % 3}`,
      connectionId: kindAt.has(n) ? `sick-${n}` : `well-${n % HEALTHY_CONNECTIONS}`,
    })),
  );
  await rig.round();
  await rig.makeDue();
  const sick = new Map<string, PoisonKind>();
  ids.forEach((id, n) => {
    const kind = kindAt.get(n);
    if (kind !== undefined) sick.set(id, kind);
    rig.source.add(id, ITEM);
  });
  script(rig, sick, sum);
  const input = await rig.plan();
  if (input.size !== ENTRIES) report(`the batch holds ${input.size} of ${ENTRIES} entries`);
  const next = await rig.hop(input);
  const early = await rig.rows();
  for (const id of ids) {
    if (sick.has(id)) continue;
    sum.healthy += 1;
    const problem = wellProblem(rig, id, early.get(id));
    if (problem === undefined) sum.healthyFirstPass += 1;
    else report(`a healthy trigger ${problem} after the first pass`);
  }
  if (next !== undefined) await rig.round(next);
  const rows = await rig.rows();
  const letters = await deadLetters(rig);
  for (const [id, kind] of sick) {
    sum.tried += 1;
    const row = rows.get(id);
    if (row !== undefined) codes.add(row.code);
    for (const problem of sickProblems(rig, id, kind, row, letters.get(id) ?? 0)) report(`"${kind.name}": ${problem}`);
  }
  const leases = await rig.leases();
  sum.leasesLeft += leases;
  if (leases > 0) report(`${leases} leases are left`);
}

/** Puts the kinds' answers in the place of the honest ones, for their triggers alone. */
function script(rig: Rig, sick: ReadonlyMap<string, PoisonKind>, sum: Sum): void {
  const fire = <T>(answer: T | undefined): T | undefined => {
    if (answer !== undefined) sum.faults += 1;
    return answer;
  };
  rig.source.script = (call) => fire(sick.get(call.trigger.id)?.polled);
  rig.controlPlane.conn = (asks): Scripted => {
    const records = asks.flatMap((ask) => {
      const kind = sick.get(ask.triggerIds[0] ?? '');
      return fire(kind?.connection?.(ask)) ?? [JSON.stringify(rig.controlPlane.active(ask))];
    });
    return { body: `{"connections":[${records.join(',')}]}` };
  };
  rig.controlPlane.state = (results): Scripted | undefined => {
    const judge = (result: SentResult) => sick.get(result.triggerId)?.state;
    if (!results.some(judge)) return undefined;
    rig.controlPlane.accept(results.filter((result) => judge(result) === undefined));
    const statuses = results.flatMap((result) => {
      return fire(judge(result)?.(result)) ?? [JSON.stringify({ triggerId: result.triggerId, status: 'accepted' })];
    });
    return { body: `{"results":[${statuses.join(',')}],"lifecycle":[]}` };
  };
}

function wellProblem(rig: Rig, id: string, row: RigRow | undefined): string | undefined {
  if (row === undefined) return 'has no row';
  if (row.leased) return 'is still leased';
  if (row.code !== 'ok' || row.cursor !== '1') return `has code ${row.code} and cursor ${row.cursor}`;
  const events = rig.controlPlane.byTrigger.get(id) ?? [];
  return isSame(events, [eventIdOf(id, ITEM)]) ? undefined : `was told ${events.length} times`;
}

function sickProblems(
  rig: Rig,
  id: string,
  { ends }: PoisonKind,
  row: RigRow | undefined,
  letters: number,
): readonly string[] {
  if (row === undefined) return ['it has no row'];
  const problems: string[] = [];
  const compare = (what: string, is: unknown, wanted: unknown): void => {
    if (is !== wanted) problems.push(`${what} is ${String(is)} instead of ${String(wanted)}`);
  };
  compare('the code', row.code, ends.code);
  compare('the halt', row.halt, ends.halt ?? null);
  compare('the cursor', row.cursor, ends.cursor ?? '0');
  compare('the number of dead letters', letters, ends.deadLetters);
  compare('the lease', row.leased, false);
  const events = rig.controlPlane.byTrigger.get(id) ?? [];
  if (
    !isSame(
      events,
      ends.told.map((key) => eventIdOf(id, key)),
    )
  )
    problems.push(`${events.length} events were told instead of ${ends.told.join(', ') || 'none'}`);
  return problems;
}

async function deadLetters(rig: Rig): Promise<ReadonlyMap<string, number>> {
  const rows = await rig.db.sql`select trigger_id as id, count(*)::int as n from dead_letters group by 1`;
  return new Map(rows.map(({ id, n }) => [id as string, n as number]));
}

function isSame(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((value, at) => value === b[at]);
}
