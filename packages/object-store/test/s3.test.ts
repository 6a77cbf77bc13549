/**
 * The s3 driver sits the exam on a real server, and is then called through a proxy that loses, cuts and refuses what
 * the server says. Without Python there is no server, and none of this runs; the line below says so.
 */
import { randomUUID } from 'node:crypto';
import { CreateBucketCommand, PutBucketVersioningCommand, S3Client } from '@aws-sdk/client-s3';
import { type ObjectStore, ObjectStoreUnavailable, systemClock } from '@milkrun/core';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createObjectStore, UnsafeObjectStore } from '../src/index.ts';
import { bytesOf, describeObjectStore } from './conformance.ts';
import { type Fault, type FaultProxy, startFaultProxy } from './fault-proxy.ts';
import { findPython, type Ministack, startMinistack } from './ministack.ts';

const python = findPython();
if (python === undefined) {
  process.stderr.write('NOT RUN: the s3 driver was not tested, because there is no Python 3.10 with pip on PATH\n');
}

const FAULTS: readonly Fault[] = ['lose_answer', 'reset', 'none'];
const credentials = { accessKeyId: 'test', secretAccessKey: 'test' };

describe.runIf(python !== undefined)('s3', () => {
  let server: Ministack;
  let proxy: FaultProxy;
  let admin: S3Client;

  beforeAll(async () => {
    server = await startMinistack(python as string);
    proxy = await startFaultProxy(server.endpoint);
    admin = new S3Client({ endpoint: server.endpoint, region: 'us-east-1', credentials, forcePathStyle: true });
  }, 400_000);
  afterAll(async () => {
    admin?.destroy();
    await proxy?.stop();
    await server?.stop();
  });

  const newBucket = async (): Promise<string> => {
    const bucket = `milkrun-${randomUUID()}`;
    await admin.send(new CreateBucketCommand({ Bucket: bucket }));
    return bucket;
  };

  for (const [checksums, prefix] of [
    ['when_supported', ''],
    ['when_required', '/some/prefix'],
  ]) {
    let bucket = '';
    describeObjectStore(`s3, checksums ${checksums}, prefix "${prefix}"`, {
      reset: async () => {
        bucket = await newBucket();
      },
      open: () =>
        createObjectStore(`s3://${bucket}${prefix}?endpoint=${server.endpoint}&checksums=${checksums}`, {
          credentials,
        }),
    });
  }

  describe('object store: s3, when the network or the store misbehaves', () => {
    let store: ObjectStore;
    let slept: number[];
    let bucket: string;

    beforeEach(async () => {
      bucket = await newBucket();
      slept = [];
      proxy.plan();
      store = throughProxy(bucket);
    });

    const throughProxy = (name: string, attemptMs = 10_000): ObjectStore =>
      createObjectStore(`s3://${name}/p?endpoint=${proxy.endpoint}`, {
        credentials,
        attemptMs,
        rng: { next: () => 0.5, bytes: (count) => bytesOf(count) },
        clock: {
          ...systemClock,
          sleep: async (ms) => {
            slept.push(ms);
          },
        },
      });

    it('knows its own write again when the answer was lost', async () => {
      proxy.plan('lose_answer');
      expect(await store.putIfAbsent('a', bytesOf(10))).toBe('created');
      expect(proxy.calls()).toBe(3);
      expect(Buffer.from((await store.get('a')) ?? [])).toEqual(bytesOf(10));
    });

    it('does not take the same bytes of another writer for its own', async () => {
      await store.putIfAbsent('a', bytesOf(10));
      proxy.plan('reset');
      expect(await store.putIfAbsent('a', bytesOf(10))).toBe('exists');
    });

    it('asks again after 409, which is no answer, and not after 412, which is one', async () => {
      proxy.plan('conflict', 'conflict');
      expect(await store.putIfAbsent('a', bytesOf(10))).toBe('created');
      expect(proxy.calls()).toBe(3);
      proxy.plan();
      expect(await store.putIfAbsent('a', bytesOf(10))).toBe('exists');
      expect(proxy.calls()).toBe(1);
    });

    it('tells at most one of racing writers that it won, and tells it no other, whatever is lost on the way', async () => {
      let wins = 0;
      for (let round = 0; round < 6; round += 1) {
        proxy.plan(...Array.from({ length: 24 }, (_, at) => FAULTS[(at + round) % FAULTS.length] ?? 'none'));
        const outcomes = await Promise.allSettled(
          Array.from({ length: 16 }, (_, writer) => store.putIfAbsent(`race/${round}`, bytesOf(100, writer))),
        );
        proxy.plan();
        const body = Buffer.from((await store.get(`race/${round}`)) ?? []);
        for (const [writer, outcome] of outcomes.entries()) {
          const isOwner = body.equals(bytesOf(100, writer));
          // Four lost answers in a row leave a writer without one; all others must have been told the truth.
          if (outcome.status === 'rejected') expect(outcome.reason).toBeInstanceOf(ObjectStoreUnavailable);
          else expect([writer, outcome.value]).toEqual([writer, isOwner ? 'created' : 'exists']);
          if (outcome.status === 'fulfilled' && isOwner) wins += 1;
        }
      }
      expect(wins).toBeGreaterThan(0);
    });

    it.each(['cut_body', 'stall_body', 'slow_down', 'reset'] as const)('reads again after %s', async (fault) => {
      await store.putIfAbsent('a', bytesOf(300_000));
      const impatient = throughProxy(bucket, 500);
      proxy.plan(fault);
      expect(Buffer.from((await impatient.get('a')) ?? []).equals(bytesOf(300_000))).toBe(true);
      expect(proxy.calls()).toBe(2);
      await impatient.close();
    });

    it('never returns a truncated body, and gives up after four attempts with back-off', async () => {
      await store.putIfAbsent('a', bytesOf(300_000));
      proxy.always('cut_body');
      await expect(store.get('a')).rejects.toThrow(ObjectStoreUnavailable);
      expect(proxy.calls()).toBe(4);
      expect(slept).toEqual([50, 100, 200]);
    });

    it('does not repeat what was refused, and says what was refused where', async () => {
      proxy.always('denied');
      const refused = `in bucket ${bucket} failed after 1 attempt: AccessDenied, HTTP 403`;
      await expect(store.putIfAbsent('a', bytesOf(1))).rejects.toThrow(`write of a ${refused}`);
      await expect(store.get('a')).rejects.toThrow(`read of a ${refused}`);
      await expect(store.list('a')).rejects.toThrow(`list of a ${refused}`);
      await expect(store.delete('a')).rejects.toThrow(`removal of a ${refused}`);
      expect(proxy.calls()).toBe(4);
    });

    it('is unavailable, not empty, without its bucket', async () => {
      const lost = throughProxy('no-such-bucket-here');
      await expect(lost.get('a')).rejects.toThrow(/NoSuchBucket/);
      await expect(lost.list('')).rejects.toThrow(ObjectStoreUnavailable);
      await expect(lost.probe()).rejects.toThrow(/NoSuchBucket/);
    });

    it('refuses, at start, a store that overwrites in silence', async () => {
      proxy.always('drop_condition');
      const probe = store.probe();
      await expect(probe).rejects.toThrow(UnsafeObjectStore);
      await expect(probe).rejects.toThrow(
        `OBJECT_STORE is "s3://${bucket}/p?endpoint=${proxy.endpoint}", and that store overwrites an object`,
      );
      await expect(probe).rejects.toThrow(/Accepted are stores that honour conditional writes/);
    });

    it('refuses, at start, a bucket that keeps old versions', async () => {
      await admin.send(
        new PutBucketVersioningCommand({ Bucket: bucket, VersioningConfiguration: { Status: 'Enabled' } }),
      );
      await expect(store.probe()).rejects.toThrow(
        /OBJECT_STORE is .* keeps old versions.*Accepted is a bucket without/,
      );
    });

    it('sees versioning in its own write where it may not ask', async () => {
      await admin.send(
        new PutBucketVersioningCommand({ Bucket: bucket, VersioningConfiguration: { Status: 'Enabled' } }),
      );
      proxy.plan('none', 'none', 'denied');
      await expect(store.probe()).rejects.toThrow(UnsafeObjectStore);
      expect(proxy.calls()).toBe(3);
    });
  });
});
