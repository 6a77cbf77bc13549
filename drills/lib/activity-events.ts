/** Events and poison for the router: what a publisher may put on the bus, with what has to become of it. */

export interface BusMessage {
  readonly raw: Uint8Array;
  readonly headers: Readonly<Record<string, string>>;
}

export interface Poison extends BusMessage {
  /** Where it has to end. */
  readonly stage: 'decode' | 'loop' | 'conflict';
  /** For `conflict`: the event whose id it has. Whichever of the two comes second is the dead letter. */
  readonly rival?: number;
}

export const EVENT_TYPE = 'drill.made';
const SOURCE = '/drill';
const encode = (value: unknown): Uint8Array => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value));

export const eventIdentity = (n: number) => ({ source: SOURCE, id: `event-${n}` });

const recordOf = (n: number, data: object = {}) => ({
  specversion: '1.0',
  ...eventIdentity(n),
  type: EVENT_TYPE,
  subject: `Straße ${n % 97} % "x"`,
  data: { n, tenth: n % 10, ...data },
});

/** The n-th event: structured, binary, or one of the two older envelopes, by turns. The same n gives the same content. */
export function eventMessage(n: number): BusMessage {
  const { source, id } = eventIdentity(n);
  const data = { n, tenth: n % 10 };
  switch (n % 4) {
    case 0:
      return { raw: encode(recordOf(n)), headers: {} };
    case 1:
      return {
        raw: encode(data),
        headers: {
          'content-type': 'application/json',
          'ce-specversion': '1.0',
          'ce-id': id,
          'ce-source': source,
          'ce-type': EVENT_TYPE,
          'ce-subject': encodeURIComponent(`Straße ${n % 97}`),
        },
      };
    case 2:
      return {
        raw: encode({
          event_id: id,
          type: EVENT_TYPE,
          source,
          occurred_at: '2026-01-01T00:00:00Z',
          subject: 'of old',
          trace_id: `trace-${n}`,
          payload: data,
        }),
        headers: {},
      };
    default:
      return {
        raw: encode({ id, type: EVENT_TYPE, timestamp: '2026-01-01T00:00:00Z', publisher: source, attributes: data }),
        headers: {},
      };
  }
}

const KINDS: readonly ((n: number, rival: number) => Poison)[] = [
  (n) => ({ stage: 'decode', raw: encode(`{"broken": ${n}`), headers: {} }),
  (n) => ({ stage: 'decode', raw: Buffer.concat([Buffer.from([0xff, 0xfe]), encode(`"${n}"`)]), headers: {} }),
  (n) => ({
    stage: 'decode',
    raw: encode({ specversion: '1.0', source: SOURCE, type: EVENT_TYPE, data: n }),
    headers: {},
  }),
  (n) => ({ stage: 'decode', raw: encode({ ...recordOf(n), id: `p-${n}`, type: 'Not A Type' }), headers: {} }),
  (n) => ({ stage: 'decode', raw: encode({ ...recordOf(n), id: `p-${n}`, 'not-an-extension': 1 }), headers: {} }),
  (n) => ({ stage: 'decode', raw: encode({ ...recordOf(n), id: `p-\u0007${n}` }), headers: {} }),
  (n) => ({ stage: 'decode', raw: encode(`[${n}, "no event"]`), headers: {} }),
  (n) => ({ stage: 'decode', raw: encode({ event_id: `p-${n}`, type: EVENT_TYPE, payload: {} }), headers: {} }),
  (n) => ({
    stage: 'decode',
    raw: encode({ n }),
    headers: { 'ce-specversion': '1.0', 'ce-source': SOURCE, 'ce-type': EVENT_TYPE, 'ce-id': '%zz' },
  }),
  (n) => ({ stage: 'loop', raw: encode({ ...recordOf(n), id: `p-${n}`, hops: 17 }), headers: {} }),
  (n, rival) => ({ stage: 'conflict', rival, raw: encode(recordOf(rival, { poison: n })), headers: {} }),
];

/** The n-th poison message, kinds by turns; no two have the same bytes. */
export function poisonMessage(n: number, rival: number): Poison {
  return (KINDS[n % KINDS.length] as (typeof KINDS)[number])(n, rival);
}
