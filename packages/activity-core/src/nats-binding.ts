/** CloudEvents over NATS: binary mode (`ce-*` headers, percent-encoded) and structured mode. */
import { Refused } from './problem.ts';

const STRUCTURED = /^application\/cloudevents\+json/i;

/** Header values and body of a record, binary mode. */
export function natsHeadersOf(record: Record<string, unknown>): {
  readonly headers: Readonly<Record<string, string>>;
  readonly data: string;
  readonly type: string;
} {
  const { data, datacontenttype, ...attributes } = record;
  const headers: Record<string, string> = { 'content-type': String(datacontenttype ?? 'application/json') };
  for (const [name, value] of Object.entries(attributes)) headers[`ce-${name}`] = encoded(String(value));
  return { headers, data: JSON.stringify(data ?? null), type: String(record.type) };
}

/** What a message says, as the value an event is read from. Throws Refused when its body is not JSON. */
export function messageValueOf(headers: Readonly<Record<string, string>>, raw: Uint8Array): unknown {
  const body = parsed(raw);
  if (headers['ce-specversion'] === undefined || STRUCTURED.test(headers['content-type'] ?? '')) return body;
  const record: Record<string, unknown> = {
    datacontenttype: headers['content-type'] ?? 'application/json',
    data: body,
  };
  for (const [name, value] of Object.entries(headers)) {
    if (!name.startsWith('ce-')) continue;
    const attribute = name.slice(3);
    const text = decoded(attribute, value);
    // The one extension that is a number; a header knows text alone.
    record[attribute] = attribute === 'hops' && /^\d{1,9}$/.test(text) ? Number(text) : text;
  }
  return record;
}

/** Outside printable ASCII, and space, quote and percent, as the binding says. */
function encoded(value: string): string {
  return value.replace(/[^\x21\x23\x24\x26-\x7e]/gu, (character) => encodeURIComponent(character.toWellFormed()));
}

function decoded(name: string, value: string): string {
  try {
    return decodeURIComponent(value);
  } catch {
    throw new Refused([{ path: name, message: 'its header is not percent-encoded' }]);
  }
}

function parsed(raw: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(raw));
  } catch (error) {
    throw new Refused([{ path: '', message: `is not JSON: ${(error as Error).message}` }]);
  }
}
