/**
 * Object keys: what every driver accepts, how a key becomes a path, and the order keys are listed in.
 *
 * One rule for all drivers, so that a key that works in memory works on a disk and in a bucket: `/`-separated segments,
 * none of them empty, `.` or `..`, no control characters, at most 900 bytes, each segment at most 240 characters once
 * it is encoded as a file name.
 */

const KEY_BYTES_MAX = 900;
const SEGMENT_NAME_CHARS_MAX = 240;

/** Not allowed in XML 1.0, which is how a bucket lists its keys, or not in well-formed Unicode. */
const UNLISTABLE = /[\p{Cc}\p{Cs}\uFFFE\uFFFF]/u;

/** Kept as they are in file names. No capitals: some file systems would take `A` and `a` for one name. */
const PLAIN = /^[a-z0-9._=+,@-]+$/;
const PLAIN_BYTES = new Set(Buffer.from('abcdefghijklmnopqrstuvwxyz0123456789._=+,@-'));

export class InvalidObjectKey extends Error {
  override readonly name = 'InvalidObjectKey';
}

/** The key's segments. Throws InvalidObjectKey, naming what is wrong. */
export function segmentsOf(key: string): readonly string[] {
  const refuse = (why: string): never => {
    throw new InvalidObjectKey(`object key ${JSON.stringify(key.slice(0, 200))} ${why}`);
  };
  if (Buffer.byteLength(key) > KEY_BYTES_MAX) refuse(`is longer than ${KEY_BYTES_MAX} bytes`);
  if (UNLISTABLE.test(key)) refuse('holds a control character or a lone surrogate');
  const segments = key.split('/');
  for (const segment of segments) {
    if (segment === '' || segment === '.' || segment === '..') refuse(`has the segment "${segment}"`);
    if (nameOf(segment).length > SEGMENT_NAME_CHARS_MAX) refuse('has a segment that is too long for a file name');
  }
  return segments;
}

/** A segment as a file name: every byte but plain ones as `%` and two hex digits. */
export function nameOf(segment: string): string {
  if (PLAIN.test(segment)) return segment;
  let name = '';
  for (const byte of Buffer.from(segment)) {
    name += PLAIN_BYTES.has(byte) ? String.fromCharCode(byte) : `%${byte.toString(16).padStart(2, '0')}`;
  }
  return name;
}

/** The segment a file name stands for; undefined for names that no segment has (foreign files). */
export function segmentOf(name: string): string | undefined {
  try {
    const segment = decodeURIComponent(name);
    return nameOf(segment) === name ? segment : undefined;
  } catch {
    return undefined;
  }
}

/** Ascending order of the keys' UTF-8 bytes, which is how buckets list; JavaScript's own order is another one. */
export function sortKeys(keys: readonly string[]): string[] {
  return keys
    .map((key) => ({ key, bytes: Buffer.from(key) }))
    .sort((a, b) => Buffer.compare(a.bytes, b.bytes))
    .map(({ key }) => key);
}
