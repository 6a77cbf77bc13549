/**
 * Answers of `/conn/batch` as a control plane must not give them. Each credential says in itself which (tenant, connection)
 * its record names, so that whoever uses it for another is seen.
 */
import type { AskedConnection } from '@milkrun/testkit';
import { shuffled } from './random.ts';

export interface Connection {
  readonly tenantId: string;
  readonly connectionId: string;
}

export interface CrookedAnswer {
  readonly status: number;
  readonly body: string;
  /** Identities that are named once, as active and usable, and by no other tenant: those that may be polled. */
  readonly named: readonly string[];
}

/** What is compared: no two connections share one. */
export const identity = ({ tenantId, connectionId }: Connection): string => JSON.stringify([tenantId, connectionId]);

/** Ids that mean something elsewhere, or look like one another. */
const IDS = [
  'a',
  'A',
  'a ',
  'b',
  'b","a',
  '["t1","a"]',
  '__proto__',
  'constructor',
  'toString',
  'null',
  '0',
  'é',
  'e\u0301',
  'x'.repeat(128),
];
const TENANTS = ['t1', 't2', 'T1', 't1 ', '__proto__'];

interface Record {
  readonly of: Connection;
  readonly json: string;
  readonly isActive: boolean;
}

type Way = (records: Record[], random: () => number) => Record[];

const active = (of: Connection, more: object = {}): Record => ({
  of,
  isActive: true,
  json: JSON.stringify({ ...of, status: 'active', auth: { madeFor: identity(of), ...more } }),
});
/** A record that names a connection in a way that must not count. */
const broken = (of: Connection, fields: object): Record => ({
  of,
  isActive: false,
  json: JSON.stringify({ ...of, ...fields }),
});
const stray = (json: string): Record => ({ of: { tenantId: '', connectionId: '' }, isActive: false, json });

function one<T>(list: readonly T[], random: () => number): T {
  return list[Math.floor(random() * list.length)] as T;
}

const WAYS: Readonly<{ [name: string]: Way }> = {
  shuffled: (records, random) => shuffled(records, random),
  reversed: (records) => records.toReversed(),
  missing: (records, random) => records.filter(() => random() > 0.3),
  doubled: (records, random) => [...records, one(records, random)],
  doubledOtherwise: (records, random) => [active(one(records, random).of, { second: true }), ...records],
  ofAnotherTenant: (records, random) => {
    const { of } = one(records, random);
    return [...records, active({ ...of, tenantId: one(TENANTS, random) })];
  },
  tenantsExchanged: (records, random) => {
    const [a, b] = [one(records, random), one(records, random)];
    return records.map((record) => {
      if (record === a) return active({ ...a.of, tenantId: b.of.tenantId });
      return record === b ? active({ ...b.of, tenantId: a.of.tenantId }) : record;
    });
  },
  idsAlmostRight: (records, random) => {
    const { of } = one(records, random);
    const ids = [
      `${of.connectionId} `,
      of.connectionId.toUpperCase(),
      of.connectionId.normalize('NFD'),
      ` ${of.connectionId}`,
    ];
    return [
      ...records,
      ...ids
        .filter((id) => id !== of.connectionId && id.length <= 128)
        .map((connectionId) => active({ ...of, connectionId })),
    ];
  },
  invented: (records, random) => [active({ tenantId: one(TENANTS, random), connectionId: 'invented' }), ...records],
  idsOfOtherTypes: (records, random) => {
    const { of } = one(records, random);
    const auth = { madeFor: 'a number' };
    return [
      ...records,
      stray(JSON.stringify({ ...of, connectionId: 0, status: 'active', auth })),
      stray(JSON.stringify({ ...of, tenantId: [of.tenantId], status: 'active', auth })),
    ];
  },
  notRecords: (records) => [
    stray('null'),
    stray('7'),
    stray('"a"'),
    stray('[]'),
    stray('{"__proto__":{"status":"active"}}'),
    ...records,
  ],
  credentialsOfTheRevoked: (records, random) => {
    const { of } = one(records, random);
    return records.map((record) =>
      record.of === of ? broken(of, { status: 'revoked', auth: { madeFor: identity(of) } }) : record,
    );
  },
  authThatIsNone: (records, random) => {
    const { of } = one(records, random);
    const auth = one([null, 'text', [{ madeFor: identity(of) }], 5], random);
    return records.map((record) => (record.of === of ? broken(of, { status: 'active', auth }) : record));
  },
  swappedKeysOfOneRecord: (records, random) => {
    const { of } = one(records, random);
    return [...records, active({ tenantId: of.connectionId.slice(0, 128), connectionId: of.tenantId })];
  },
};

/** Ways in which the answer as a whole is wrong: nothing in it may be used. */
const WHOLE: Readonly<{ [name: string]: (records: readonly Record[]) => { status: number; body: string } }> = {
  asAMap: (records) => ({ status: 200, body: `{"connections":{"0":${records[0]?.json ?? '1'}}}` }),
  cut: (records) => ({ status: 200, body: bodyOf(records).slice(0, -2) }),
  tooLarge: () => ({ status: 413, body: '' }),
  refusedWithAnswer: (records) => ({ status: 403, body: bodyOf(records) }),
};
const WHOLE_SHARE = 0.06;

function bodyOf(records: readonly Record[]): string {
  return `{"connections":[${records.map(({ json }) => json).join(',')}]}`;
}

export class CrookedAnswers {
  /** How often each way was taken; shared by all that are made from one. */
  readonly ways: { [name: string]: number };
  private readonly random: () => number;

  constructor(random: () => number, ways: { [name: string]: number } = {}) {
    this.random = random;
    this.ways = ways;
  }

  /** The same with a randomness of its own, so that batches beside one another do not change each other's. */
  of(random: () => number): CrookedAnswers {
    return new CrookedAnswers(random, this.ways);
  }

  /** Answers that were crooked in some way. */
  get made(): number {
    return Object.values(this.ways).reduce((sum, n) => sum + n, 0);
  }

  get unused(): string[] {
    return [...Object.keys(WAYS), ...Object.keys(WHOLE)].filter((name) => this.ways[name] === undefined);
  }

  /** Different connections, some with an id that another tenant's has too. */
  connections(count: number): Connection[] {
    const all = new Map<string, Connection>();
    while (all.size < count) {
      const of = { tenantId: one(TENANTS, this.random), connectionId: one(IDS, this.random) };
      all.set(identity(of), of);
    }
    return [...all.values()];
  }

  answer(asks: readonly AskedConnection[]): CrookedAnswer {
    let records = asks.map(({ tenantId, connectionId }) => active({ tenantId, connectionId }));
    if (this.random() < WHOLE_SHARE) {
      const name = one(Object.keys(WHOLE), this.random);
      this.count(name);
      return { ...(WHOLE[name] as (typeof WHOLE)[string])(records), named: [] };
    }
    for (let ways = 1 + Math.floor(this.random() * 3); ways > 0 && records.length > 0; ways -= 1) {
      const name = one(Object.keys(WAYS), this.random);
      this.count(name);
      records = (WAYS[name] as Way)(records, this.random);
    }
    return { status: 200, body: bodyOf(records), named: namedOnce(records) };
  }

  private count(name: string): void {
    this.ways[name] = (this.ways[name] ?? 0) + 1;
  }
}

function namedOnce(records: readonly Record[]): string[] {
  const byIdentity = Map.groupBy(records, ({ of }) => identity(of));
  return [...byIdentity].flatMap(([own, all]) => (all.length === 1 && all[0]?.isActive === true ? [own] : []));
}
