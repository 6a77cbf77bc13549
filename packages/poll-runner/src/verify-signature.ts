/** Signature Version 4 seen from the server's side, written apart from the signer so that one checks the other. */
import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Credentials } from './credentials.ts';

const AUTHORIZATION =
  /^AWS4-HMAC-SHA256 Credential=([^/]+)\/(\d{8})\/([^/]+)\/([^/]+)\/aws4_request, ?SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})$/;
const AMZ_DATE = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/;
const SKEW_MS_MAX = 5 * 60_000;

export interface Refusal {
  readonly type: string;
  readonly message: string;
}

/** Undefined when the request is signed with the credentials, for this region, within five minutes of now. */
export function refusalOf(
  request: IncomingMessage,
  body: Buffer,
  credentials: Credentials,
  { region, nowMs }: { readonly region: string; readonly nowMs: number },
): Refusal | undefined {
  const authorization = request.headers.authorization;
  if (authorization === undefined)
    return refusal('MissingAuthenticationTokenException', 'Missing Authentication Token');
  const parts = AUTHORIZATION.exec(authorization);
  if (parts === null) return refusal('IncompleteSignatureException', 'Authorization header is not Signature Version 4');
  const [, keyId, day = '', signedRegion, service = '', signedHeaders = '', signature = ''] = parts;
  if (keyId !== credentials.accessKeyId || text(request, 'x-amz-security-token') !== credentials.sessionToken) {
    return refusal('UnrecognizedClientException', 'The security token included in the request is invalid.');
  }
  const date = text(request, 'x-amz-date') ?? '';
  const skew = Math.abs(Date.parse(date.replace(AMZ_DATE, '$1-$2-$3T$4:$5:$6Z')) - nowMs);
  if (!(skew <= SKEW_MS_MAX) || !date.startsWith(day)) {
    return refusal('InvalidSignatureException', `Signature expired or not yet current: ${date}`);
  }
  const names = signedHeaders.split(';');
  if (signedRegion !== region || service !== 'lambda' || !names.includes('host') || !names.includes('x-amz-date')) {
    return refusal(
      'InvalidSignatureException',
      'Credential should be scoped to the region and service of the endpoint.',
    );
  }
  const [path = '', query = ''] = (request.url ?? '').split('?');
  const canonical = [
    request.method ?? '',
    path.split('/').map(encodeSegment).join('/'),
    query.split('&').sort().join('&'),
    ...names.map((name) => `${name}:${(text(request, name) ?? '').replace(/\s+/g, ' ').trim()}`),
    '',
    signedHeaders,
    createHash('sha256').update(body).digest('hex'),
  ].join('\n');
  const scope = `${day}/${signedRegion}/${service}/aws4_request`;
  const toSign = `AWS4-HMAC-SHA256\n${date}\n${scope}\n${createHash('sha256').update(canonical).digest('hex')}`;
  const key = [day, region, service, 'aws4_request'].reduce<Buffer>(
    (above, part) => createHmac('sha256', above).update(part).digest(),
    Buffer.from(`AWS4${credentials.secretAccessKey}`),
  );
  const expected = createHmac('sha256', key).update(toSign).digest();
  if (timingSafeEqual(expected, Buffer.from(signature, 'hex'))) return undefined;
  return refusal(
    'InvalidSignatureException',
    'The request signature we calculated does not match the signature you provided.',
  );
}

const refusal = (type: string, message: string): Refusal => ({ type, message });

function text(request: IncomingMessage, name: string): string | undefined {
  const value = request.headers[name];
  return Array.isArray(value) ? value.join(',') : value;
}

const encodeSegment = (segment: string): string =>
  encodeURIComponent(segment).replace(/[!'()*]/g, (mark) => `%${mark.charCodeAt(0).toString(16).toUpperCase()}`);
