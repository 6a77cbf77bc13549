/** A packument's published versions with their times; whatever is not as expected is left out, never trusted. */
import { PollError } from '../errors.ts';

export interface PublishedVersion {
  readonly publishedMs: number;
  readonly data: {
    readonly package: string;
    readonly version: string;
    readonly publishedAt: string;
    readonly tags: readonly string[];
    readonly description?: string;
    readonly license?: string;
    readonly deprecated?: string;
  };
}

const TEXT_LENGTH_MAX = 1_000;
const VERSION_LENGTH_MAX = 256;
const TAGS_MAX = 100;

/** Throws PollError `connector` for an answer that is no packument. An unpublished version is not published. */
export function publishedVersions(packument: unknown, name: string): PublishedVersion[] {
  const { time, versions, 'dist-tags': distTags } = recordOf(packument) ?? {};
  const times = recordOf(time);
  if (times === undefined) throw new PollError('connector', 'the registry answered without times');
  const manifests = recordOf(versions) ?? {};
  const tags = tagsByVersion(recordOf(distTags) ?? {});
  const published: PublishedVersion[] = [];
  for (const [version, at] of Object.entries(times)) {
    const manifest = Object.hasOwn(manifests, version) ? recordOf(manifests[version]) : undefined;
    const publishedMs = typeof at === 'string' ? Date.parse(at) : Number.NaN;
    if (manifest === undefined || Number.isNaN(publishedMs) || version.length > VERSION_LENGTH_MAX) continue;
    published.push({
      publishedMs,
      data: {
        package: name,
        version,
        publishedAt: new Date(publishedMs).toISOString(),
        tags: tags.get(version) ?? [],
        ...textIn(manifest, 'description'),
        ...textIn(manifest, 'license'),
        ...textIn(manifest, 'deprecated'),
      },
    });
  }
  return published;
}

function tagsByVersion(distTags: Readonly<Record<string, unknown>>): Map<string, string[]> {
  const tags = new Map<string, string[]>();
  for (const [tag, version] of Object.entries(distTags).slice(0, TAGS_MAX)) {
    if (typeof version === 'string') tags.set(version, [...(tags.get(version) ?? []), tag.slice(0, TEXT_LENGTH_MAX)]);
  }
  return tags;
}

function textIn<Name extends string>(from: Readonly<Record<string, unknown>>, name: Name): { [K in Name]?: string } {
  const text = Object.hasOwn(from, name) ? from[name] : undefined;
  return typeof text === 'string' ? ({ [name]: text.slice(0, TEXT_LENGTH_MAX) } as { [K in Name]?: string }) : {};
}

function recordOf(value: unknown): Readonly<Record<string, unknown>> | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Readonly<Record<string, unknown>>)
    : undefined;
}
