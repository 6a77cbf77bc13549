/**
 * npm-package: an event for each version published of a package.
 *
 * Asks by ETag, so an unchanged package costs a 304. Reads the full metadata, since the abbreviated form has no times.
 * Packages may have more versions than keys can be remembered, so the strategy is watermark: the cursor holds the time
 * up to which everything is known for good, and each changed answer is read again from there. That floor trails the
 * newest version by the overlap (a mirror may show versions out of order) and never falls, so nothing that was left out
 * before is ever taken for new.
 */
import { z } from 'zod';
import { defineConnector, type PollContext, type PollItem, type PollResult } from '../connector.ts';
import { PollError } from '../errors.ts';
import { type PublishedVersion, publishedVersions } from './packument.ts';

const OVERLAP_SECONDS = 24 * 3600;
/** Some packages' metadata is tens of megabytes. */
const PACKUMENT_BYTES_MAX = 64 * 1024 * 1024;
const ETAG_LENGTH_MAX = 256;
const PACKAGE_NAME = /^(?:@[a-z0-9~-][a-z0-9._~-]*\/)?[a-z0-9~-][a-z0-9._~-]*$/i;

const configSchema = z.strictObject({
  package: z.string().max(214).regex(PACKAGE_NAME, 'not a package name').describe('Name of the package'),
  registry: z
    .url({ protocol: /^https?$/ })
    .optional()
    .describe('Address of the registry; default: the operator’s'),
});

const cursorSchema = z.object({
  v: z.literal(1),
  etag: z.string().nullable(),
  /** Versions published before are known for good. */
  floor: z.iso.datetime(),
  /** Where the next page of one answer begins. */
  after: z.object({ time: z.iso.datetime(), version: z.string() }).optional(),
});
type Cursor = z.output<typeof cursorSchema>;

export const npmPackage = defineConnector({
  toolkit: 'npm',
  slug: 'npm-package',
  title: 'New versions of an npm package',
  version: '1',
  configSchema,
  eventSchema: z.object({
    package: z.string(),
    version: z.string(),
    publishedAt: z.iso.datetime(),
    tags: z.array(z.string()),
    description: z.string().optional(),
    license: z.string().optional(),
    deprecated: z.string().optional(),
  }),
  dedupe: 'watermark',
  overlapSeconds: OVERLAP_SECONDS,
  defaultIntervalSeconds: 900,
  minimumIntervalSeconds: 300,
  repeatable: true,
  poll,
});

async function poll(context: PollContext<z.output<typeof configSchema>>): Promise<PollResult> {
  const cursor = cursorOf(context);
  const { http, config, auth, signal, eventsMax } = context;
  const answer = await http.send({
    url: packumentUrl(config.registry ?? registryOf(context.settings), config.package),
    headers: {
      accept: 'application/json',
      ...(cursor.etag === null ? {} : { 'if-none-match': cursor.etag }),
      ...authorizationOf(auth),
    },
    answerBytesMax: PACKUMENT_BYTES_MAX,
    alsoFine: [304],
    signal,
  });
  if (answer.status === 304) return { events: [], cursor };
  const floorMs = Date.parse(cursor.floor);
  const rest = publishedVersions(answer.json(), config.package)
    .filter((version) => version.publishedMs >= floorMs && isAfter(version, cursor.after))
    .sort(byTime);
  const page = rest.slice(0, eventsMax);
  const last = page.at(-1);
  if (rest.length > page.length && last !== undefined) {
    const after = { time: last.data.publishedAt, version: last.data.version };
    return { events: page.map(itemOf), cursor: { ...cursor, etag: null, after }, more: true };
  }
  const newestMs = last?.publishedMs ?? Date.parse(cursor.after?.time ?? cursor.floor);
  const floor = new Date(Math.max(floorMs, newestMs - OVERLAP_SECONDS * 1000)).toISOString();
  return { events: page.map(itemOf), cursor: { v: 1, etag: etagOf(answer.header('etag')), floor } satisfies Cursor };
}

function cursorOf({ cursor, since, clock }: PollContext<unknown>): Cursor {
  if (cursor === null) {
    const fromMs = since === undefined ? clock.now() - OVERLAP_SECONDS * 1000 : Date.parse(since);
    return { v: 1, etag: null, floor: new Date(fromMs).toISOString() };
  }
  const parsed = cursorSchema.safeParse(cursor);
  if (!parsed.success) throw new PollError('permanent', 'the cursor is not one of this connector');
  return parsed.data;
}

/** Its absence is the operator's fault, so it must not halt the trigger as a permanent error would. */
function registryOf(settings: PollContext<unknown>['settings']): string {
  if (settings.NPM_REGISTRY !== undefined) return settings.NPM_REGISTRY;
  throw new PollError(
    'connector',
    'NPM_REGISTRY is not set for the poll function, and the trigger\'s config names no "registry": ' +
      'set either to the address of a package registry, as https://HOST/PATH/',
  );
}

/** A slash inside a scoped name is part of the name, so it is encoded. */
function packumentUrl(registry: string, name: string): string {
  return `${registry.replace(/\/+$/, '')}/${name.replace('/', '%2f')}`;
}

function authorizationOf(auth: unknown): { authorization?: string } {
  const token = typeof auth === 'object' && auth !== null && 'token' in auth ? auth.token : undefined;
  return typeof token === 'string' && token !== '' ? { authorization: `Bearer ${token}` } : {};
}

function etagOf(etag: string | undefined): string | null {
  return etag !== undefined && etag.length <= ETAG_LENGTH_MAX ? etag : null;
}

const byTime = (a: PublishedVersion, b: PublishedVersion): number =>
  a.publishedMs - b.publishedMs || (a.data.version < b.data.version ? -1 : 1);

function isAfter(version: PublishedVersion, after: Cursor['after']): boolean {
  if (after === undefined) return true;
  const afterMs = Date.parse(after.time);
  return version.publishedMs > afterMs || (version.publishedMs === afterMs && version.data.version > after.version);
}

const itemOf = ({ data }: PublishedVersion): PollItem => ({
  key: `${data.package}@${data.version}`,
  occurredAt: data.publishedAt,
  data,
});
