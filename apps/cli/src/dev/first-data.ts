/**
 * The first data of a laptop: a connection and a trigger for each of a dozen packages this repository itself depends on, an
 * activity that makes a task of each new version they find, and on demand a synthetic fleet. Triggers are upserted by
 * deduplication key and the activity is made along with them, so a later run creates nothing twice.
 */
import { type Connector, npmPackage, synthetic } from '@milkrun/connectors';
import { CommandFailed } from '../exit-codes.ts';
import { asRecord, type HttpClient } from '../http-client.ts';

/** Dependencies of this repository, most of them released every few weeks, so that `since` finds events at once. */
export const PACKAGES = [
  '@aws-sdk/client-s3',
  '@biomejs/biome',
  '@types/node',
  'commander',
  'fastify',
  'knip',
  'oxc-parser',
  'turbo',
  'typescript',
  'undici',
  'vite',
  'vitest',
] as const;

// biome-ignore-start lint/suspicious/noTemplateCurlyInString: placeholders of the definition's language.
/** What `examples/activities/new-release.yaml` says. */
export const NEW_RELEASE = {
  slug: 'new-release',
  name: 'Look at new releases',
  on: [{ event: { type: 'dev.milkrun.npm.npm-package' } }],
  rules: [
    {
      id: 'look',
      task: {
        type: 'human',
        title: 'Look at ${event.data.package} ${event.data.version}',
        labels: ['release', '${event.data.package}'],
        params: { instructions: 'Read the changes and decide whether to take it.', due_in: '7d' },
        unique: { key: '${event.data.package}@${event.data.version}', for: '30d' },
      },
    },
  ],
} as const;
// biome-ignore-end lint/suspicious/noTemplateCurlyInString: see above.

const PACKAGE_INTERVAL_S = 300;
const FLEET_INTERVAL_S = 60;
const SINCE_MS = 30 * 24 * 3600 * 1000;
/** Triggers a request; the API takes as many at most. */
const BULK = 1000;
/** A tenth of the polls of a fleet find something. */
const FLEET_RATE_PER_MINUTE = 0.1;
/** Their items come spread over time, not all in the same minute. */
const PHASES = 1000;

export interface FirstData {
  readonly packages: number;
  readonly fleet: number;
}

/** `now` dates `since` of triggers that are made; those of an earlier run keep theirs. */
export async function createFirstData(
  api: HttpClient,
  { fleet, now, progress }: { fleet: number; now: number; progress: (done: number, of: number) => void },
): Promise<FirstData> {
  const known = await knownKeys(api);
  const wantedPackages = PACKAGES.filter((name) => !known.has(`dev:npm-package:${name}`));
  if (wantedPackages.length > 0) {
    // Before the triggers, so that it is there for their first events.
    const slugs = (await api.list('/activity-definitions')).map(({ slug }) => slug);
    if (!slugs.includes(NEW_RELEASE.slug)) await api.send('POST', '/activity-definitions', NEW_RELEASE);
    const connectionId = await connectionFor(api, 'npm', 'npm registry');
    const since = new Date(now - SINCE_MS).toISOString();
    const triggers = wantedPackages.map((name) => ({
      deduplicationKey: `dev:npm-package:${name}`,
      name: `Releases of ${name}`,
      ...recordOf(npmPackage, { package: name }),
      connectionId,
      intervalSeconds: PACKAGE_INTERVAL_S,
      since,
    }));
    await api.send('POST', '/triggers/bulk', { triggers });
  }
  const wantedFleet = Array.from({ length: fleet }, (_, i) => i).filter((i) => !known.has(`dev:synthetic:${i}`));
  const missing = wantedFleet.length;
  if (missing > 0) {
    const connectionId = await connectionFor(api, 'synthetic', 'synthetic fleet');
    for (let done = 0; done < missing; ) {
      const some = wantedFleet.slice(done, done + BULK);
      const triggers = some.map((i) => ({
        deduplicationKey: `dev:synthetic:${i}`,
        name: `Synthetic ${i}`,
        ...recordOf(synthetic, { ratePerMinute: FLEET_RATE_PER_MINUTE, phase: (i % PHASES) / PHASES }),
        connectionId,
        intervalSeconds: FLEET_INTERVAL_S,
      }));
      await api.send('POST', '/triggers/bulk', { triggers });
      done += some.length;
      progress(done, missing);
    }
  }
  return { packages: wantedPackages.length, fleet: missing };
}

/** What a trigger of a built-in connector says beside its owner's wishes. */
function recordOf(connector: Connector, config: object): object {
  const { toolkit, slug, version } = connector;
  return { toolkit, slug, version, config, poll: connector.policyOf(config) };
}

async function knownKeys(api: HttpClient): Promise<Set<unknown>> {
  const triggers = await api.list('/triggers');
  return new Set(triggers.map(({ deduplicationKey }) => deduplicationKey));
}

/** The laptop's connection of a toolkit, by its name. */
async function connectionFor(api: HttpClient, toolkit: string, name: string): Promise<string> {
  const known = (await api.list('/connections', { toolkit })).find((connection) => connection.name === name);
  if (typeof known?.id === 'string') return known.id;
  const { id } = asRecord(await api.send('POST', '/connections', { toolkit, name, credentials: { type: 'none' } }));
  if (typeof id !== 'string') throw new CommandFailed('the API answered POST /connections without an id');
  return id;
}
