/**
 * Whoever can write to the bucket but holds no key must not be able to make the engine use anything. Objects of every
 * kind, written by the engine's own snapshots, are changed in a bit or in many, cut, continued, swapped, rolled back to
 * another hop's, copied to names of their own, sealed with a foreign key under our key's name, spliced from two, or given
 * another head. Each time the batch is read by a process that has nothing decoded: the object must be reported by its key, and
 * what is read must be what was there before without it. Between attacks the untouched objects are read too: a reader that
 * refuses everything proves nothing.
 */
import { randomBytes } from 'node:crypto';
import { createLocalKeysFrom, createSnapshots, type Snapshots } from '@milkrun/batch-poller';
import { eventIdOf, type KeyProvider, type Log, noLog, noMetrics, systemClock } from '@milkrun/core';
import { createMemoryObjectStore } from '@milkrun/object-store';
import { claimedTrigger } from './lib/claimed-trigger.ts';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { randomFrom } from './lib/random.ts';

const BATCHES = [
  'batch-poller:0:0199a6f0-1111-7000-8000-000000000001',
  'batch-poller:0:0199a6f0-1111-7000-8000-000000000002',
] as const;
const TRIGGER_ID = '3f2b8c1e-6f0a-4a53-9d53-0d6f1c5b7a10';
const HEAD_START = 8;
/** One read of an untouched object after so many attacks. */
const CONTROL_EVERY = 100;

const KINDS = ['entries', 'auth', 'verdicts', 'results', 'delivered'] as const;
type Kind = (typeof KINDS)[number];

/** What an attacker puts where. */
interface Attack {
  readonly key: string;
  readonly bytes: Uint8Array;
}
interface Attacked {
  readonly key: string;
  readonly kind: Kind;
  readonly bytes: Buffer;
}
type Attacker = (target: Attacked, scene: Scene, random: () => number) => Attack;

interface Scene {
  readonly objects: ReturnType<typeof createMemoryObjectStore>;
  readonly stored: ReadonlyMap<string, Buffer>;
  /** The same batches as another deployment, with keys of its own, has written them. */
  readonly foreign: ReadonlyMap<string, Buffer>;
  /** Reads as a fresh process does. */
  read(kind: Kind, batchId: string): Promise<Reading>;
}

interface Reading {
  /** What the records say of where they were written. */
  readonly records: readonly string[];
  /** Keys reported as unreadable. */
  readonly reported: readonly string[];
}

export const drill: Drill = {
  name: 'snapshot-attacks',
  about: 'A stored object that is not what was written there is never used.',
  defaults: { count: 20_000 },
  fullCount: 100_000,
  ciCount: 4_000,
  async run({ count, seed, log }: DrillInput): Promise<DrillResult> {
    const random = randomFrom(seed);
    const scene = await openScene();
    const targets = targetsOf(scene);
    const names = Object.keys(ATTACKERS) as (keyof typeof ATTACKERS)[];
    const tried: Record<string, number> = {};
    const whole = await readingsOf(scene);
    let [accepted, controls, unread] = [0, 0, 0];
    for (let [attack, total] = [0, 0]; total < count; attack += 1) {
      const name = names[attack % names.length] as keyof typeof ATTACKERS;
      const target = targets[Math.floor(random() * targets.length)] as Attacked;
      const { key, bytes } = ATTACKERS[name](target, scene, random);
      const original = scene.stored.get(key);
      // Bytes that happen to be the same are no attack.
      if (original?.equals(bytes)) continue;
      await replace(scene, key, bytes);
      const { records, reported } = await scene.read(target.kind, batchOf(key));
      const wanted = (whole.get(`${target.kind} ${batchOf(key)}`) ?? []).filter((record) => record !== nameOf(key));
      if (!isSame(reported, [key]) || !isSame(records, wanted)) {
        accepted += 1;
        log(
          `violation: ${name} of ${target.key} at ${key}: read ${records.join(', ')}, reported ${reported.join(', ')}`,
        );
      }
      tried[name] = (tried[name] ?? 0) + 1;
      total += 1;
      if (original === undefined) await scene.objects.delete(key);
      else await replace(scene, key, original);
      if (attack % CONTROL_EVERY !== 0) continue;
      controls += 1;
      const again = await scene.read(target.kind, batchOf(target.key));
      if (again.reported.length > 0 || !again.records.includes(nameOf(target.key))) {
        unread += 1;
        log(`violation: ${target.key} is not read although nobody touched it`);
      }
      if (attack % 10_000 === 0 && attack > 0) log(`${attack} of ${count} attacks, ${accepted} accepted`);
    }
    const total = Object.values(tried).reduce((sum, n) => sum + n, 0);
    return {
      tried: total,
      violations: accepted + unread,
      faults: total,
      accepted,
      controls,
      objects: targets.length,
      attacks: tried,
    };
  },
};

const isSame = (a: readonly string[], b: readonly string[]): boolean =>
  a.length === b.length && a.every((value, at) => value === b[at]);

/** All records of each kind and batch, untouched. */
async function readingsOf(scene: Scene): Promise<ReadonlyMap<string, readonly string[]>> {
  const all = new Map<string, readonly string[]>();
  for (const kind of KINDS)
    for (const batchId of BATCHES) all.set(`${kind} ${batchId}`, (await scene.read(kind, batchId)).records);
  return all;
}

async function replace({ objects }: Scene, key: string, bytes: Uint8Array): Promise<void> {
  await objects.delete(key);
  await objects.putIfAbsent(key, bytes);
}

const ATTACKERS = {
  flip: ({ key, bytes }, _scene, random) => {
    const changed = Buffer.from(bytes);
    const at = Math.floor(random() * changed.length);
    changed[at] = (changed[at] as number) ^ (1 << Math.floor(random() * 8));
    return { key, bytes: changed };
  },
  overwrite: ({ key, bytes }, _scene, random) => {
    const changed = Buffer.from(bytes);
    const from = Math.floor(random() * changed.length);
    randomBytes(1 + Math.floor(random() * 64)).copy(changed, from);
    return { key, bytes: changed };
  },
  cut: ({ key, bytes }, _scene, random) => ({ key, bytes: bytes.subarray(0, Math.floor(random() * bytes.length)) }),
  behead: ({ key, bytes }, _scene, random) => ({
    key,
    bytes: bytes.subarray(1 + Math.floor(random() * (bytes.length - 1))),
  }),
  continue: ({ key, bytes }, _scene, random) => ({
    key,
    bytes: Buffer.concat([bytes, randomBytes(1 + Math.floor(random() * 40))]),
  }),
  /** Another purpose's object under this name. */
  swapPurpose: (target, scene, random) => ({
    key: target.key,
    bytes: pick(scene.stored, random, (key) => kindOf(key) !== target.kind && batchOf(key) === batchOf(target.key)),
  }),
  /** What an earlier or later hop or attempt wrote, under this one's name. */
  rollBack: (target, scene, random) => ({
    key: target.key,
    bytes: pick(
      scene.stored,
      random,
      (key) =>
        (kindOf(key) === target.kind && key !== target.key && batchOf(key) === batchOf(target.key)) ||
        target.kind === 'entries',
    ),
  }),
  swapBatch: (target, scene) => ({ key: target.key, bytes: scene.stored.get(otherBatch(target.key)) as Buffer }),
  /** A true copy under a name nobody wrote. */
  copy: (target, _scene, random) => ({ key: freshName(target.key, random), bytes: target.bytes }),
  foreignKey: (target, scene) => ({ key: target.key, bytes: scene.foreign.get(target.key) as Buffer }),
  /** Foreign ciphertext that claims to be sealed with our key. */
  claimedKey: (target, scene) => ({
    key: target.key,
    bytes: withHead(scene.foreign.get(target.key) as Buffer, (head) => ({
      ...head,
      keyId: headOf(target.bytes).keyId,
    })),
  }),
  /** Foreign ciphertext under our wrapped key, or our ciphertext under a foreign one. */
  spliceKey: (target, scene, random) => {
    const foreign = scene.foreign.get(target.key) as Buffer;
    const [body, head] = random() < 0.5 ? [foreign, target.bytes] : [target.bytes, foreign];
    const { wrapped, keyId } = headOf(head);
    return { key: target.key, bytes: withHead(body, (own) => ({ ...own, wrapped, keyId })) };
  },
  /** The head of one object before the body of another. */
  splice: (target, scene, random) => {
    const other = pick(scene.stored, random, (key) => key !== target.key);
    return {
      key: target.key,
      bytes: Buffer.concat([headBytes(target.bytes), other.subarray(headBytes(other).length)]),
    };
  },
  /** Another head over the same body: other fields, other values, or the same ones written otherwise. */
  head: (target, _scene, random) => ({
    key: target.key,
    bytes: withHead(target.bytes, HEADS[Math.floor(random() * HEADS.length)] as (typeof HEADS)[number]),
  }),
} satisfies Record<string, Attacker>;

interface Head {
  readonly schema: number;
  readonly algorithm: string;
  readonly keyId: string;
  readonly wrapped: string;
  readonly iv: string;
}

/** The last three are the same head to a JSON parser. */
const HEADS: readonly ((head: Head) => object | string)[] = [
  (head) => ({ ...head, schema: 0 }),
  (head) => ({ ...head, schema: 2 }),
  (head) => ({ ...head, algorithm: 'none' }),
  (head) => ({ ...head, algorithm: 'A128GCM' }),
  (head) => ({ ...head, keyId: '' }),
  (head) => ({ ...head, keyId: `${head.keyId} ` }),
  (head) => ({ ...head, keyId: '__proto__' }),
  (head) => ({ ...head, wrapped: '' }),
  (head) => ({ ...head, wrapped: head.wrapped.slice(4) }),
  (head) => ({ ...head, iv: '' }),
  (head) => ({ ...head, iv: Buffer.alloc(12).toString('base64') }),
  (head) => ({ ...head, iv: Buffer.alloc(64, 1).toString('base64') }),
  () => ({}),
  () => '',
  (head) => `[${JSON.stringify(head)}]`,
  (head) => `${JSON.stringify(head)} `,
  (head) => ({ ...head, added: 1 }),
  ({ schema, ...rest }) => ({ ...rest, schema }),
];

function headBytes(bytes: Buffer): Buffer {
  return bytes.subarray(0, HEAD_START + bytes.readUInt16BE(HEAD_START - 2));
}

function headOf(bytes: Buffer): Head {
  return JSON.parse(headBytes(bytes).toString('utf8', HEAD_START)) as Head;
}

function withHead(bytes: Buffer, change: (head: Head) => object | string): Buffer {
  const changed = change(headOf(bytes));
  const head = Buffer.from(typeof changed === 'string' ? changed : JSON.stringify(changed));
  const length = Buffer.alloc(2);
  length.writeUInt16BE(head.length);
  return Buffer.concat([bytes.subarray(0, HEAD_START - 2), length, head, bytes.subarray(headBytes(bytes).length)]);
}

function pick(from: ReadonlyMap<string, Buffer>, random: () => number, isWanted: (key: string) => boolean): Buffer {
  const keys = [...from.keys()].filter(isWanted);
  return from.get(keys[Math.floor(random() * keys.length)] as string) as Buffer;
}

const batchOf = (key: string): string => key.split('/')[1] as string;
const nameOf = (key: string): string => key.split('/').slice(2).join('/');
const kindOf = (key: string): Kind => key.split('/')[2] as Kind;
const otherBatch = (key: string): string => {
  const [one, two] = BATCHES;
  return batchOf(key) === one ? key.replace(one, two) : key.replace(two, one);
};

/** A name of the same purpose that no object has. */
function freshName(key: string, random: () => number): string {
  const kind = kindOf(key);
  if (kind === 'entries') return otherBatch(key).replace(/[12]\/entries$/, '3/entries');
  const n = 2 + Math.floor(random() * 1_000);
  return `batches/${batchOf(key)}/${kind}/${Math.floor(random() * 4)}.${1 + Math.floor(random() * 3)}-${n}`;
}

function targetsOf({ stored }: Scene): Attacked[] {
  return [...stored].map(([key, bytes]) => ({ key, kind: kindOf(key), bytes }));
}

async function openScene(): Promise<Scene> {
  const objects = createMemoryObjectStore();
  const keys = createLocalKeysFrom([randomBytes(32), randomBytes(32)]);
  const abroad = createMemoryObjectStore();
  await fill(snapshotsOf(objects, keys));
  await fill(snapshotsOf(abroad, createLocalKeysFrom([randomBytes(32)])));
  return {
    objects,
    stored: await contentOf(objects),
    foreign: await contentOf(abroad),
    async read(kind, batchId) {
      const reported: string[] = [];
      const records = await originsOf(snapshotsOf(objects, keys, reported), kind, batchId);
      return { records, reported };
    },
  };
}

function snapshotsOf(objects: Scene['objects'], keys: KeyProvider, reported: string[] = []): Snapshots {
  const error: Log['error'] = ({ key }, event) => {
    if (event === 'snapshot.unreadable') reported.push(String(key));
  };
  return createSnapshots({ objects, keys, clock: systemClock, metrics: noMetrics, log: { ...noLog, error } });
}

async function contentOf(objects: Scene['objects']): Promise<ReadonlyMap<string, Buffer>> {
  const all = new Map<string, Buffer>();
  for (const key of await objects.list('batches/')) all.set(key, Buffer.from((await objects.get(key)) as Uint8Array));
  return all;
}

/** Two batches of two hops with two attempts each: every record says in itself which object it was written to. */
async function fill(snapshots: Snapshots): Promise<void> {
  for (const batchId of BATCHES) {
    await snapshots.writeEntries(batchId, [claimedTrigger({ triggerId: TRIGGER_ID, config: '{"of":"entries"}' })]);
    for (const [hop, attempt] of [
      [0, 1],
      [0, 2],
      [1, 1],
    ] as const) {
      const place = `${hop}.${attempt}`;
      // The name of its object, so that what is read says where it was written.
      const connectionId = `auth/${place}`;
      await snapshots.writeAuth(batchId, hop, attempt, [
        { connectionId, tenantId: 't', auth: '{"token":"t"}', expiresAtMs: null, fetchedAtMs: 1, hop },
      ]);
      await snapshots.writeVerdicts(batchId, hop, attempt, 0, [
        { triggerId: TRIGGER_ID, leaseEpoch: 7, hop, code: 'auth.missing', reason: `verdicts/${place}-0` },
      ]);
      const origin = { triggerId: TRIGGER_ID, leaseEpoch: 7, hop, attempt };
      const writer = snapshots.resultWriter(batchId, hop, attempt);
      const eventId = eventIdOf(TRIGGER_ID, place);
      writer.append({
        ...origin,
        page: 0,
        code: 'ok',
        events: [{ eventId, json: `{"id":"${eventId}"}` }],
        newKeys: 'AAAAAAAAAAA=',
        cursorAfter: '1',
        more: false,
        deduplicated: 0,
        pollMs: 1,
      });
      await writer.close();
      await snapshots
        .deliveredWriter(batchId, hop, attempt)
        .record([{ ...origin, result: { object: `results/${place}-0`, line: 0 }, status: 'accepted' }]);
    }
  }
}

/** Names of the objects whose records are read back, of one kind. */
async function originsOf(snapshots: Snapshots, kind: Kind, batchId: string): Promise<readonly string[]> {
  switch (kind) {
    case 'entries': {
      const entries = await snapshots.readEntries(batchId);
      return typeof entries === 'string' ? [] : ['entries'];
    }
    case 'auth':
      return [...(await snapshots.readAuth(batchId)).values()].map(({ connectionId }) => connectionId);
    case 'verdicts':
      return (await snapshots.readVerdicts(batchId)).map(({ reason }) => reason);
    case 'results':
      return (await snapshots.readResults(batchId)).map(({ at }) => at.object);
    case 'delivered':
      return (await snapshots.readDelivered(batchId)).map(({ at }) => at.object);
  }
}
