/**
 * Credentials of the Invoke API: read from a provider, kept, and refreshed before they expire.
 *
 * A refresh in good time runs beside the calls; only a caller that finds nothing usable waits for it. One read at a
 * time. A failed early refresh changes nothing while the old credentials live.
 */
import type { Clock } from '@milkrun/core';

export interface Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string | undefined;
  readonly expiration?: Date | undefined;
}

export type CredentialsProvider = () => Promise<Credentials>;

/** For the local Invoke API server, which checks no signature unless told to. Not a secret. */
export const LOCAL_CREDENTIALS = Object.freeze({
  accessKeyId: 'milkrun',
  secretAccessKey: 'milkrun',
}) satisfies Credentials;

/** Environment, profile files, SSO, web identity, container and instance metadata, as every AWS tool reads them. */
export function defaultCredentials(): CredentialsProvider {
  let chain: Promise<CredentialsProvider> | undefined;
  return async () => {
    chain ??= import('@aws-sdk/credential-provider-node').then(({ defaultProvider }) => defaultProvider());
    return (await chain)();
  };
}

export interface CredentialsCache {
  /** Usable credentials, at once when there are some. Rejects with the provider's error when there are none. */
  get(): Credentials | Promise<Credentials>;
  /** The server refused these: the next `get` asks the provider again. */
  refuse(credentials: Credentials): void;
}

const REFRESH_AHEAD_MS = 5 * 60_000;
const USABLE_UNTIL_MS = 30_000;
/** Refused credentials are asked for anew at most this often, so that a missing permission is no storm of reads. */
const REFUSED_PAUSE_MS = 10_000;

export function createCredentialsCache(provider: CredentialsProvider, clock: Clock): CredentialsCache {
  let current: Credentials | undefined;
  let reading: Promise<Credentials> | undefined;
  let readAt = Number.NEGATIVE_INFINITY;

  const read = (): Promise<Credentials> => {
    reading ??= provider()
      .then((found) => {
        assertUsable(found);
        current = found;
        readAt = clock.monotonic();
        return found;
      })
      .finally(() => {
        reading = undefined;
      });
    return reading;
  };

  return {
    get() {
      if (current === undefined) return read();
      if (current.expiration === undefined) return current;
      const left = current.expiration.getTime() - clock.now();
      if (left <= USABLE_UNTIL_MS) return read();
      // The old ones live on: an early refresh that fails is tried again by the next call.
      if (left <= REFRESH_AHEAD_MS) read().catch(() => {});
      return current;
    },
    refuse(credentials) {
      if (credentials === current && clock.monotonic() - readAt >= REFUSED_PAUSE_MS) current = undefined;
    },
  };
}

function assertUsable({ accessKeyId, secretAccessKey, sessionToken }: Credentials): void {
  const isHeaderText = (text: unknown): boolean => typeof text === 'string' && /^[\x21-\x7e]+$/.test(text);
  if (!isHeaderText(accessKeyId) || typeof secretAccessKey !== 'string' || secretAccessKey === '') {
    throw new Error('the credentials provider gave no access key');
  }
  if (sessionToken !== undefined && !/^[\x20-\x7e]+$/.test(sessionToken)) {
    throw new Error('the credentials provider gave a session token that is no header text');
  }
}
