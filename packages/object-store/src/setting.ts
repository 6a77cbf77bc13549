/** The OBJECT_STORE setting: what it may say, and what it says. */

export interface S3Setting {
  readonly kind: 's3';
  readonly bucket: string;
  /** Without slashes at its ends; '' for none. */
  readonly prefix: string;
  /** Absent: Amazon's own. */
  readonly endpoint?: string;
  /** Absent: the standard chain of AWS (AWS_REGION, profile), or us-east-1 with an endpoint. */
  readonly region?: string;
  /** Bucket in the path and not in the host name; by default true with an endpoint. */
  readonly pathStyle: boolean;
  readonly checksums: 'when_supported' | 'when_required';
}

export type ObjectStoreSetting =
  | { readonly kind: 'memory' }
  | { readonly kind: 'fs'; readonly path: string }
  | S3Setting;

export const OBJECT_STORE_FORMS =
  'fs:PATH, memory:, s3://bucket/prefix?endpoint=URL&region=NAME&pathStyle=true|false&checksums=when_supported|when_required';

export class InvalidObjectStoreSetting extends Error {
  override readonly name = 'InvalidObjectStoreSetting';
}

const BUCKET = /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/;
const PREFIX = /^[A-Za-z0-9._=+@-]+(\/[A-Za-z0-9._=+@-]+)*$/;
const PARAMETERS = ['endpoint', 'region', 'pathStyle', 'checksums'];

/** Reads the setting. Throws InvalidObjectStoreSetting, naming the value, what is wrong with it and what is accepted. */
export function parseObjectStoreSetting(text: string): ObjectStoreSetting {
  if (text === 'memory:') return { kind: 'memory' };
  if (text.startsWith('fs:')) {
    const path = text.slice('fs:'.length);
    if (path.trim() === '' || path.includes('\0')) throw refusal(text, 'names no directory');
    return { kind: 'fs', path };
  }
  if (text.startsWith('s3://')) return parseS3(text);
  throw refusal(text, 'is of no known form');
}

function parseS3(text: string): S3Setting {
  if (!URL.canParse(text)) throw refusal(text, 'is not a URL');
  const url = new URL(text);
  if (url.username !== '' || url.password !== '') {
    throw refusal(text, 'holds credentials, which belong into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY');
  }
  if (!BUCKET.test(url.host)) throw refusal(text, `names no bucket ("${url.host}")`);
  for (const name of url.searchParams.keys()) {
    if (!PARAMETERS.includes(name)) throw refusal(text, `has the unknown parameter "${name}"`);
    if (url.searchParams.getAll(name).length > 1) throw refusal(text, `has the parameter "${name}" twice`);
  }
  const prefix = url.pathname.replace(/^\/|\/$/g, '');
  if (prefix !== '' && (!PREFIX.test(prefix) || prefix.split('/').some((part) => /^\.{1,2}$/.test(part)))) {
    throw refusal(text, `has the prefix "${prefix}", which is not made of letters, digits and . _ = + @ - /`);
  }
  const endpoint = url.searchParams.get('endpoint') ?? undefined;
  if (endpoint !== undefined && !/^https?:\/\/[^/?#@]+\/?$/.test(endpoint)) {
    throw refusal(text, 'has an endpoint that is not http://host:port or https://host:port');
  }
  const region = url.searchParams.get('region') ?? (endpoint === undefined ? undefined : 'us-east-1');
  if (region !== undefined && !/^[a-z0-9-]{1,64}$/.test(region)) throw refusal(text, `has the region "${region}"`);
  const pathStyle = url.searchParams.get('pathStyle') ?? String(endpoint !== undefined);
  if (pathStyle !== 'true' && pathStyle !== 'false') throw refusal(text, `has pathStyle "${pathStyle}"`);
  const checksums = url.searchParams.get('checksums') ?? 'when_supported';
  if (checksums !== 'when_supported' && checksums !== 'when_required') {
    throw refusal(text, `has checksums "${checksums}"`);
  }
  return {
    kind: 's3',
    bucket: url.host,
    prefix,
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(region === undefined ? {} : { region }),
    pathStyle: pathStyle === 'true',
    checksums,
  };
}

/** What stands before an `@` may be a password: never repeated. */
function refusal(text: string, problem: string): InvalidObjectStoreSetting {
  const shown = text.replace(/\/\/[^/]*@/g, '//[redacted]@');
  return new InvalidObjectStoreSetting(`OBJECT_STORE is "${shown}", which ${problem}. Accepted: ${OBJECT_STORE_FORMS}`);
}
