/**
 * Objects in an S3-compatible bucket.
 *
 * A write is conditional (`If-None-Match: *`): 412 means the object exists, 409 that two writers met and one should ask
 * again. An answer that never came leaves open whether the write happened; the next attempt then meets its own object,
 * which it recognizes by a mark in the object's metadata. So exactly one writer is ever told `created`.
 */
import { randomUUID } from 'node:crypto';
import type { Readable } from 'node:stream';
import {
  DeleteObjectCommand,
  GetBucketVersioningCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3';
import type { Clock, ObjectStore, Rng } from '@milkrun/core';
import { segmentsOf, sortKeys } from './keys.ts';
import { assertWithin, GET_BYTES_MAX } from './limits.ts';
import { probeStore, unsafe } from './probe.ts';
import { type Attempt, nameOfFault, statusOf, TruncatedBody, withRetries } from './s3-retry.ts';
import type { S3Setting } from './setting.ts';

export interface S3Options {
  readonly setting: S3Setting;
  /** The setting's text, for messages. */
  readonly text: string;
  readonly clock: Clock;
  readonly rng: Rng;
  /** Connections to the bucket, and so calls at once. */
  readonly socketsMax: number;
  /** Milliseconds one attempt of a call may take. */
  readonly attemptMs: number;
  /** Absent: the standard chain of AWS. */
  readonly credentials?: { readonly accessKeyId: string; readonly secretAccessKey: string };
}

const CONNECT_MS = 5_000;
/** Name of the metadata field that says which call wrote an object. */
const WRITER = 'milkrun-write';

export function createS3ObjectStore(options: S3Options): ObjectStore {
  const { setting, text, attemptMs } = options;
  const Bucket = setting.bucket;
  const under = setting.prefix === '' ? '' : `${setting.prefix}/`;
  const client = clientOf(options);

  const keyOf = (key: string): string => {
    segmentsOf(key);
    return under + key;
  };
  const retrying = <T>(what: string, call: (attempt: Attempt) => Promise<T>): Promise<T> =>
    withRetries(`${what} in bucket ${Bucket}`, options, call);

  /** The version id of the object written; a versioned bucket gives one. */
  async function put(key: string, body: Uint8Array): Promise<{ outcome: 'created' | 'exists'; version?: string }> {
    const Key = keyOf(key);
    const writer = randomUUID();
    return await retrying(`write of ${key}`, async ({ number, signal }) => {
      try {
        const answer = await client.send(
          new PutObjectCommand({ Bucket, Key, Body: body, IfNoneMatch: '*', Metadata: { [WRITER]: writer } }),
          { abortSignal: signal },
        );
        return { outcome: 'created', ...(answer.VersionId === undefined ? {} : { version: answer.VersionId }) };
      } catch (error) {
        if (statusOf(error) !== 412) throw error;
      }
      return { outcome: number > 1 && (await wroteIt(Key, writer, signal)) ? 'created' : 'exists' };
    });
  }

  async function wroteIt(Key: string, writer: string, abortSignal: AbortSignal): Promise<boolean> {
    try {
      const { Metadata } = await client.send(new HeadObjectCommand({ Bucket, Key }), { abortSignal });
      return Metadata?.[WRITER] === writer;
    } catch (error) {
      if (statusOf(error) === 404) return false;
      throw error;
    }
  }

  const store: ObjectStore = {
    putIfAbsent: async (key, body) => (await put(key, body)).outcome,

    async get(key, bytesMax = GET_BYTES_MAX) {
      const Key = keyOf(key);
      return await retrying(`read of ${key}`, async ({ signal }) => {
        try {
          const { Body, ContentLength } = await client.send(new GetObjectCommand({ Bucket, Key }), {
            abortSignal: signal,
          });
          return await readBounded(key, Body as Readable, ContentLength, bytesMax, signal);
        } catch (error) {
          if (nameOfFault(error) === 'NoSuchKey') return undefined;
          throw error;
        }
      });
    },

    async list(prefix) {
      const keys: string[] = [];
      let token: string | undefined;
      do {
        const page = await retrying(`list of ${prefix}`, ({ signal }) =>
          client.send(
            new ListObjectsV2Command({
              Bucket,
              Prefix: under + prefix,
              ...(token === undefined ? {} : { ContinuationToken: token }),
            }),
            { abortSignal: signal },
          ),
        );
        for (const { Key } of page.Contents ?? []) {
          if (Key?.startsWith(under + prefix)) keys.push(Key.slice(under.length));
        }
        const next = page.IsTruncated === true ? page.NextContinuationToken : undefined;
        if (page.IsTruncated === true && (next === undefined || next === token)) {
          throw unsafe(text, `does not say how its listing of ${prefix} goes on`, 'Use a store that pages lists.');
        }
        token = next;
      } while (token !== undefined);
      return sortKeys(keys);
    },

    async delete(key) {
      const Key = keyOf(key);
      await retrying(`removal of ${key}`, ({ signal }) =>
        client.send(new DeleteObjectCommand({ Bucket, Key }), { abortSignal: signal }),
      );
    },

    async probe() {
      await refuseVersioned();
      await probeStore(store, text);
    },

    async close() {
      client.destroy();
    },
  };

  /** A versioned bucket keeps what is removed, credentials too: asked for, and seen in the answer to a write. */
  async function refuseVersioned(): Promise<void> {
    const key = `probe/${randomUUID()}`;
    const { version } = await put(key, Buffer.from('version'));
    await store.delete(key);
    const status = await retrying('versioning state', async ({ signal }) => {
      try {
        return (await client.send(new GetBucketVersioningCommand({ Bucket }), { abortSignal: signal })).Status;
      } catch (error) {
        // Not every role may ask and not every store can answer; the write's own answer decides then.
        if (statusOf(error) === 403 || statusOf(error) === 405 || statusOf(error) === 501) return undefined;
        throw error;
      }
    });
    if (status === 'Enabled' || (version !== undefined && version !== 'null')) {
      throw unsafe(
        text,
        'keeps old versions: removed credentials would stay readable',
        'Accepted is a bucket without versioning, with a lifecycle rule that expires objects after 7 days.',
      );
    }
  }

  function clientOf({ setting: { endpoint, region, pathStyle, checksums }, credentials, socketsMax }: S3Options) {
    const when = checksums === 'when_required' ? 'WHEN_REQUIRED' : 'WHEN_SUPPORTED';
    return new S3Client({
      ...(endpoint === undefined ? {} : { endpoint }),
      ...(region === undefined ? {} : { region }),
      ...(credentials === undefined ? {} : { credentials }),
      forcePathStyle: pathStyle,
      maxAttempts: 1,
      requestChecksumCalculation: when,
      responseChecksumValidation: when,
      requestHandler: {
        connectionTimeout: CONNECT_MS,
        requestTimeout: attemptMs,
        throwOnRequestTimeout: true,
        httpAgent: { keepAlive: true, maxSockets: socketsMax },
        httpsAgent: { keepAlive: true, maxSockets: socketsMax },
      },
    });
  }

  return store;
}

/** The whole body: never more than the bound, never less than announced, and never waited for past the signal. */
async function readBounded(
  key: string,
  body: Readable,
  announced: number | undefined,
  bytesMax: number,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const stop = (): void => {
    body.destroy(new TruncatedBody(`object ${key} was not read in time`));
  };
  signal.addEventListener('abort', stop, { once: true });
  try {
    if (signal.aborted) stop();
    if (announced !== undefined) assertWithin(key, announced, bytesMax);
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    for await (const chunk of body as AsyncIterable<Uint8Array>) {
      bytes += chunk.byteLength;
      assertWithin(key, bytes, bytesMax);
      chunks.push(chunk);
    }
    if (announced !== undefined && bytes !== announced) {
      throw new TruncatedBody(`object ${key} has ${announced} bytes, ${bytes} came`);
    }
    return Buffer.concat(chunks);
  } finally {
    signal.removeEventListener('abort', stop);
    body.destroy();
  }
}
