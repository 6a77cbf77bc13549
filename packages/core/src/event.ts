/**
 * An event as a CloudEvents 1.0 record (design section 3). The same item gives the same bytes apart from `sequence` and
 * `triggerversion`, and always the same id.
 */
import { hash } from 'node:crypto';

export interface EventSource {
  readonly triggerId: string;
  readonly toolkit: string;
  readonly slug: string;
  readonly triggerVersion: string;
  readonly batchId: string;
}

export interface EventItem {
  readonly eventId: string;
  /** RFC 3339, or undefined when the provider gives no time. */
  readonly occurredAt?: string;
  readonly data: unknown;
  readonly epoch: number;
  readonly page: number;
  readonly index: number;
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: the NUL character is what is looked for.
const UNCLEAN = /\u0000|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: the NUL character is what is looked for.
const UNCLEAN_ALL = /\u0000|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** Whether a text holds NUL or a lone surrogate, which PostgreSQL's jsonb refuses. */
export function hasUncleanText(text: string): boolean {
  return UNCLEAN.test(text);
}

const ESCAPED_UNCLEAN = /\\u0000|\\ud[89a-f][0-9a-f]{2}/i;

/** Replaces NUL and lone surrogates by U+FFFD in every string and member name, and tells whether it had to. */
function cleaned(value: unknown, mark: { hit: boolean }): unknown {
  if (typeof value === 'string') {
    if (!UNCLEAN.test(value)) return value;
    mark.hit = true;
    return value.replace(UNCLEAN_ALL, '\ufffd');
  }
  if (Array.isArray(value)) return value.map((member) => cleaned(member, mark));
  if (value !== null && typeof value === 'object') {
    const out: Record<string, unknown> = Object.create(null);
    for (const [name, member] of Object.entries(value)) out[cleaned(name, mark) as string] = cleaned(member, mark);
    return out;
  }
  return value;
}

const pad = (value: number, width: number): string => String(value).padStart(width, '0');

/** `dev.milkrun.{toolkit}.{slug}`: the CloudEvents type, reverse-DNS. */
export function eventTypeOf(toolkit: string, slug: string): string {
  return `dev.milkrun.${toolkit}.${slug}`;
}

/** The whole CloudEvent as JSON text. NUL and lone surrogates in `data` are replaced, with the extension `cleaned: true`. */
export function cloudEventJson(source: EventSource, item: EventItem): string {
  let data = JSON.stringify(item.data) ?? 'null';
  let cleanedMark = '';
  // JSON.stringify escapes both, so one test of the text finds whether a walk is needed at all.
  if (ESCAPED_UNCLEAN.test(data)) {
    const mark = { hit: false };
    data = JSON.stringify(cleaned(item.data, mark));
    if (mark.hit) cleanedMark = ',"cleaned":true';
  }
  const trace = hash('sha256', item.eventId, 'hex');
  const time = item.occurredAt === undefined ? '' : `,"time":${JSON.stringify(item.occurredAt)}`;
  return (
    `{"specversion":"1.0","id":"${item.eventId}","source":"/triggers/${source.triggerId}"` +
    `,"type":${JSON.stringify(eventTypeOf(source.toolkit, source.slug))}${time}` +
    `,"datacontenttype":"application/json","traceparent":"00-${trace.slice(0, 32)}-${trace.slice(32, 48)}-01"` +
    `,"correlationid":"${item.eventId}","causationid":${JSON.stringify(source.batchId)}` +
    `,"triggerid":"${source.triggerId}","triggerversion":${JSON.stringify(source.triggerVersion)},"hops":0` +
    `,"sequence":"${pad(item.epoch, 10)}.${pad(item.page, 3)}.${pad(item.index, 6)}"${cleanedMark},"data":${data}}`
  );
}
