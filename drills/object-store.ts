/**
 * Immutable objects, on a directory and on a real S3 server (versitygw): of writers that race for a name one is told it
 * won and its bytes stay; writers and servers are killed in the middle, and what was answered is there, whole, and
 * nothing else shows.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { systemClock } from '@milkrun/core';
import { createObjectStore, type OpenedObjectStore } from '@milkrun/object-store';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { bodyOf } from './lib/object-writer.ts';
import { randomFrom } from './lib/random.ts';
import { findVersitygw, startVersitygw, VERSITYGW_CREDENTIALS, type Versitygw } from './lib/versitygw.ts';

const RACERS = 32;
const INSTANCES = 4;
const WRITER = fileURLToPath(new URL('lib/object-writer.ts', import.meta.url));

interface Tally {
  tried: number;
  faults: number;
  violations: number;
  races: number;
  unanswered: number;
}

export const drill: Drill = {
  name: 'object-store',
  about: 'An object is written once, whole, by one writer, whoever races and whatever is killed.',
  defaults: { count: 60 },
  async run({ count, seed, log }: DrillInput): Promise<DrillResult> {
    const place = await mkdtemp(join(tmpdir(), 'milkrun-drill-objects-'));
    const random = randomFrom(seed);
    const tally: Tally = { tried: 0, faults: 0, violations: 0, races: 0, unanswered: 0 };
    const report = (problem: string): void => {
      tally.violations += 1;
      log(`violation: ${problem}`);
    };
    await mkdir(join(place, 'buckets', 'drill'), { recursive: true });
    const server = await startVersitygw(findVersitygw(log), join(place, 'buckets'));
    const openers: Record<string, () => OpenedObjectStore> = {
      fs: () => createObjectStore(`fs:${join(place, 'objects')}`),
      s3: () => createObjectStore(`s3://drill/run?endpoint=${server.endpoint}`, { credentials: VERSITYGW_CREDENTIALS }),
    };
    try {
      for (const [driver, open] of Object.entries(openers)) {
        const stores = Array.from({ length: INSTANCES }, open);
        await stores[0]?.probe();
        for (let round = 0; round < count; round += 1) {
          await race(stores, `races/${round}`, 1 + Math.floor(random() * 200_000), tally, report);
          const crash = random() < 0.25;
          if (crash && driver === 's3') await killServer(server, stores, round, random() * 60, tally, report);
          if (crash && driver === 'fs') {
            await killWriter(join(place, 'objects'), stores, round, 1 + Math.floor(random() * 4), tally, report);
          }
          if (round % 20 === 19) log(`${driver}: ${round + 1} of ${count} rounds`);
        }
        await Promise.all(stores.map((store) => store.close()));
      }
    } finally {
      await server.stop();
      await rm(place, { recursive: true, force: true });
    }
    return { ...tally };
  },
};

/** Writers of one name, all at once, each with bytes of its own. */
async function race(
  stores: readonly OpenedObjectStore[],
  key: string,
  bytes: number,
  tally: Tally,
  report: (problem: string) => void,
): Promise<void> {
  const bodies = Array.from({ length: RACERS }, (_, writer) => Buffer.alloc(bytes, `writer ${writer},`));
  const outcomes = await Promise.all(bodies.map((body, at) => storeAt(stores, at).putIfAbsent(key, body)));
  const winners = outcomes.flatMap((outcome, writer) => (outcome === 'created' ? [writer] : []));
  tally.tried += RACERS;
  tally.races += 1;
  if (winners.length !== 1) report(`${key} has ${winners.length} winners`);
  const stored = await storeAt(stores, 0).get(key);
  const winner = bodies[winners[0] ?? -1];
  if (stored === undefined || winner?.equals(stored) !== true) report(`${key} does not hold what its winner wrote`);
}

/** The server dies while writers wait for it; they ask again until it is back, and must be told the truth. */
async function killServer(
  server: Versitygw,
  stores: readonly OpenedObjectStore[],
  round: number,
  afterMs: number,
  tally: Tally,
  report: (problem: string) => void,
): Promise<void> {
  const keys = Array.from({ length: RACERS }, (_, n) => `crashes/${round}/${n}`);
  const writes = Promise.allSettled(keys.map((key, at) => storeAt(stores, at).putIfAbsent(key, bodyOf(key))));
  await systemClock.sleep(afterMs);
  await server.crash();
  tally.faults += 1;
  const outcomes = await writes;
  tally.tried += RACERS;
  for (const [at, outcome] of outcomes.entries()) {
    const key = keys[at] as string;
    const stored = await storeAt(stores, at).get(key);
    if (outcome.status === 'rejected') tally.unanswered += 1;
    else if (outcome.value !== 'created') report(`${key} was called taken, and nobody else wrote it`);
    else if (stored === undefined) report(`${key} was answered and is gone`);
    if (stored !== undefined && !bodyOf(key).equals(stored)) report(`${key} is there in part`);
  }
}

/** A process that writes is killed; what it said is there, and what shows is whole. */
async function killWriter(
  directory: string,
  stores: readonly OpenedObjectStore[],
  round: number,
  afterKeys: number,
  tally: Tally,
  report: (problem: string) => void,
): Promise<void> {
  const prefix = `crashes/${round}`;
  const child = spawn(process.execPath, [WRITER, directory, prefix], { stdio: ['ignore', 'pipe', 'inherit'] });
  const closed = once(child, 'close');
  let said = '';
  for await (const chunk of child.stdout) {
    said += String(chunk);
    if (said.split('\n').length > afterKeys) child.kill('SIGKILL');
  }
  await closed;
  tally.faults += 1;
  const answered = said.split('\n').slice(0, -1);
  tally.tried += answered.length;
  const shown = await storeAt(stores, 0).list(`${prefix}/`);
  for (const key of answered) if (!shown.includes(key)) report(`${key} was answered and is gone`);
  for (const key of shown) {
    const stored = await storeAt(stores, 1).get(key);
    if (stored === undefined || !bodyOf(key).equals(stored)) report(`${key} is there in part`);
  }
}

function storeAt(stores: readonly OpenedObjectStore[], at: number): OpenedObjectStore {
  return stores[at % stores.length] as OpenedObjectStore;
}
