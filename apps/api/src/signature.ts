/**
 * Signatures of webhooks, over the bytes as they came.
 *
 * `standard`: the Standard Webhooks headers `webhook-id`, `webhook-timestamp`, `webhook-signature` (one or several `v1,` and
 * base64 of HMAC-SHA256 over `id.timestamp.body`). `github`: `x-hub-signature-256` (`sha256=` and hex of HMAC-SHA256 over the
 * body), which signs neither a time nor an id: the same body is the same event there.
 */
import { createHmac, hash, timingSafeEqual } from 'node:crypto';

type Headers = Readonly<Record<string, string | string[] | undefined>>;

export interface SignedDelivery {
  readonly scheme: 'standard' | 'github';
  /** The current one first; `whsec_` and base64, or any text. */
  readonly secrets: readonly string[];
  readonly toleranceSeconds: number;
  readonly headers: Headers;
  readonly body: Uint8Array;
  /** Milliseconds since 1970. */
  readonly nowMs: number;
}

/** `by`: where the id comes from. */
export type Verified =
  | { readonly ok: true; readonly id: string; readonly by: 'webhook-id' | 'body' }
  | { readonly ok: false; readonly reason: 'signature' | 'timestamp' };

const ID = /^[\x21-\x7e]{1,256}$/;
const SIGNATURES_MAX = 20;

export function verifyDelivery(delivery: SignedDelivery): Verified {
  return delivery.scheme === 'standard' ? verifyStandard(delivery) : verifyGithub(delivery);
}

function verifyStandard({ secrets, toleranceSeconds, headers, body, nowMs }: SignedDelivery): Verified {
  const [id, timestamp, given] = ['webhook-id', 'webhook-timestamp', 'webhook-signature'].map((name) =>
    one(headers, name),
  );
  if (id === undefined || !ID.test(id) || timestamp === undefined || !/^\d{1,12}$/.test(timestamp)) return REFUSED;
  const signatures = (given ?? '')
    .split(' ')
    .slice(0, SIGNATURES_MAX)
    .flatMap((text) => (text.startsWith('v1,') ? [Buffer.from(text.slice(3), 'base64')] : []));
  const signed = Buffer.concat([Buffer.from(`${id}.${timestamp}.`), body]);
  if (!isSigned(secrets, signed, signatures)) return REFUSED;
  const offMs = Math.abs(nowMs - Number(timestamp) * 1000);
  if (offMs > toleranceSeconds * 1000) return { ok: false, reason: 'timestamp' };
  return { ok: true, id, by: 'webhook-id' };
}

function verifyGithub({ secrets, headers, body }: SignedDelivery): Verified {
  const [, hex] = /^sha256=([0-9a-f]{64})$/.exec(one(headers, 'x-hub-signature-256') ?? '') ?? [];
  if (hex === undefined || !isSigned(secrets, body, [Buffer.from(hex, 'hex')])) return REFUSED;
  // x-github-delivery is not signed: with another one, bytes that were seen would count as new.
  return { ok: true, id: hash('sha256', body, 'hex').slice(0, 32), by: 'body' };
}

const REFUSED: Verified = { ok: false, reason: 'signature' };

/** Compares every signature with every secret, in the same time whichever fits. */
function isSigned(secrets: readonly string[], signed: Uint8Array, signatures: readonly Buffer[]): boolean {
  let fits = false;
  for (const secret of secrets) {
    const wanted = createHmac('sha256', keyOf(secret)).update(signed).digest();
    for (const signature of signatures) {
      if (signature.length === wanted.length && timingSafeEqual(signature, wanted)) fits = true;
    }
  }
  return fits;
}

const keyOf = (secret: string): Buffer =>
  secret.startsWith('whsec_') ? Buffer.from(secret.slice('whsec_'.length), 'base64') : Buffer.from(secret);

const one = (headers: Headers, name: string): string | undefined => {
  const value = headers[name];
  return typeof value === 'string' ? value : undefined;
};
