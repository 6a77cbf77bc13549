/**
 * AWS Signature Version 4 for the Invoke API, made for one call per poll.
 *
 * The day key and its HMAC pads are kept per credentials and day, the date per second, the canonical head per path; a
 * signature then is four one-shot hashes. `@smithy/signature-v4` does the same work at several times the cost
 * (`npm run bench -- invoke`) and is the oracle of its tests.
 */
import { createHmac, hash } from 'node:crypto';
import type { Credentials } from './credentials.ts';

const ALGORITHM = 'AWS4-HMAC-SHA256';
const BLOCK_BYTES = 64;
const DIGEST_BYTES = 32;
const CONTENT_TYPE = 'application/json';
const PATHS_KEPT = 1_000;

export interface SignRequest {
  readonly method: 'GET' | 'POST';
  /** As it goes over the wire: encoded once, no query. */
  readonly path: string;
  readonly body: string;
}

export interface Signer {
  /** Header names and values, flat, as undici's dispatch takes them; `host` is left to the client. */
  sign(request: SignRequest, credentials: Credentials, nowMs: number): string[];
}

export interface SignerOptions {
  readonly region: string;
  readonly service: string;
  /** The `host` header the client will send: with the port when it is not the scheme's own. */
  readonly host: string;
}

/** What depends on credentials and second alone. */
interface Stamp {
  readonly credentials: Credentials;
  readonly second: number;
  readonly day: string;
  /** `20261125T045758Z` */
  readonly date: string;
  /** What follows the date in the canonical request, up to the body's hash. */
  readonly canonicalTail: string;
  readonly authorizationHead: string;
  /** ipad ‖ string to sign; its last 64 bytes are overwritten by each request's hash. */
  readonly inner: Buffer;
  /** opad ‖ inner digest. */
  readonly outer: Buffer;
  readonly token: string | undefined;
}

export function createSigner({ region, service, host }: SignerOptions): Signer {
  const heads = new Map<string, string>();
  let stamp: Stamp | undefined;

  function headOf(method: string, path: string): string {
    const id = `${method} ${path}`;
    let head = heads.get(id);
    if (head === undefined) {
      head = `${method}\n${canonicalPath(path)}\n\ncontent-type:${CONTENT_TYPE}\nhost:${host}\nx-amz-date:`;
      if (heads.size >= PATHS_KEPT) heads.clear();
      heads.set(id, head);
    }
    return head;
  }

  return {
    sign({ method, path, body }, credentials, nowMs) {
      const second = Math.floor(nowMs / 1000);
      if (stamp === undefined || stamp.second !== second || stamp.credentials !== credentials) {
        stamp = stampOf(stamp, credentials, second, region, service);
      }
      const { inner, outer } = stamp;
      const canonical = headOf(method, path) + stamp.date + stamp.canonicalTail + hash('sha256', body);
      inner.write(hash('sha256', canonical), inner.length - 2 * DIGEST_BYTES, 'latin1');
      hash('sha256', inner, 'buffer').copy(outer, BLOCK_BYTES);
      const authorization = stamp.authorizationHead + hash('sha256', outer);
      return stamp.token === undefined
        ? ['content-type', CONTENT_TYPE, 'x-amz-date', stamp.date, 'authorization', authorization]
        : [
            'content-type',
            CONTENT_TYPE,
            'x-amz-date',
            stamp.date,
            'x-amz-security-token',
            stamp.token,
            'authorization',
            authorization,
          ];
    },
  };
}

function stampOf(
  last: Stamp | undefined,
  credentials: Credentials,
  second: number,
  region: string,
  service: string,
): Stamp {
  const date = `${new Date(second * 1000).toISOString().replace(/[-:]/g, '').slice(0, 15)}Z`;
  const day = date.slice(0, 8);
  const scope = `${day}/${region}/${service}/aws4_request`;
  const toSign = `${ALGORITHM}\n${date}\n${scope}\n`;
  const sameKey = last !== undefined && last.credentials === credentials && last.day === day;
  const pads = sameKey ? last : padsOf(dayKey(credentials.secretAccessKey, day, region, service));
  const inner = Buffer.alloc(BLOCK_BYTES + toSign.length + 2 * DIGEST_BYTES);
  pads.inner.copy(inner, 0, 0, BLOCK_BYTES);
  inner.write(toSign, BLOCK_BYTES, 'latin1');
  const token = credentials.sessionToken;
  const signedHeaders = `content-type;host;x-amz-date${token === undefined ? '' : ';x-amz-security-token'}`;
  const tokenLine = token === undefined ? '' : `x-amz-security-token:${canonicalValue(token)}\n`;
  return {
    credentials,
    second,
    day,
    date,
    canonicalTail: `\n${tokenLine}\n${signedHeaders}\n`,
    authorizationHead: `${ALGORITHM} Credential=${credentials.accessKeyId}/${scope}, SignedHeaders=${signedHeaders}, Signature=`,
    inner,
    outer: pads.outer,
    token,
  };
}

function dayKey(secret: string, day: string, region: string, service: string): Buffer {
  const step = (key: string | Buffer, text: string): Buffer => createHmac('sha256', key).update(text).digest();
  return step(step(step(step(`AWS4${secret}`, day), region), service), 'aws4_request');
}

function padsOf(key: Buffer): { readonly inner: Buffer; readonly outer: Buffer } {
  const inner = Buffer.alloc(BLOCK_BYTES, 0x36);
  const outer = Buffer.alloc(BLOCK_BYTES + DIGEST_BYTES, 0x5c);
  for (const [i, byte] of key.entries()) {
    inner.writeUInt8(0x36 ^ byte, i);
    outer.writeUInt8(0x5c ^ byte, i);
  }
  return { inner, outer };
}

/** SigV4 encodes a path a second time, after empty and dot segments have been resolved. */
function canonicalPath(path: string): string {
  const segments: string[] = [];
  for (const segment of path.split('/')) {
    if (segment === '..') segments.pop();
    else if (segment !== '' && segment !== '.') segments.push(encode(segment));
  }
  return `/${segments.join('/')}${segments.length > 0 && path.endsWith('/') ? '/' : ''}`;
}

const encode = (text: string): string =>
  encodeURIComponent(text).replace(/[!'()*]/g, (mark) => `%${mark.charCodeAt(0).toString(16).toUpperCase()}`);

const canonicalValue = (value: string): string => value.replace(/[ \t]+/g, ' ').replace(/^ | $/g, '');
