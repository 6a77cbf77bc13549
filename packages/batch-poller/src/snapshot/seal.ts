/**
 * Envelope encryption of a batch's objects: AES-256-GCM under a data key that is used once and wrapped by the
 * KeyProvider.
 *
 * Authenticated beside the content are the batch, the object's name, the schema, the purpose and the header itself, so
 * an object only opens as what it was written as: changed, cut, renamed, moved to another batch or written under
 * another key, it is unreadable. An older object under the same name does not exist, since names are taken once.
 *
 * Layout: magic (6 bytes) ‖ header length (u16be) ‖ header (JSON) ‖ ciphertext ‖ tag (16 bytes).
 */
import type { KeyProvider } from '@milkrun/core';
import { parseObject } from './codec.ts';
import { type SnapshotMachine, threadPool } from './machine.ts';

const MAGIC = Buffer.from('MRSN1\n');
const HEADER_BYTES_MAX = 4_096;
const ALGORITHM = 'A256GCM';
/** Raised when the meaning of a record changes. */
const SCHEMA = 1;

export type Purpose = 'entries' | 'auth' | 'verdicts' | 'results' | 'delivered' | 'carried';

/** What an object is: part of what is authenticated. */
export interface SealContext {
  readonly batchId: string;
  /** Name inside the batch. */
  readonly object: string;
  readonly purpose: Purpose;
}

/** An object that must not be used, with its key; the object itself is left where it is. */
export class SnapshotUnreadable extends Error {
  override readonly name = 'SnapshotUnreadable';
  /** Key in the object store. */
  readonly key: string;
  constructor(key: string, reason: string, options?: ErrorOptions) {
    super(`snapshot object ${key} can not be used: ${reason}`, options);
    this.key = key;
  }
}

interface Header {
  readonly schema: number;
  readonly algorithm: string;
  readonly keyId: string;
  /** base64. */
  readonly wrapped: string;
  /** base64 of 12 bytes. */
  readonly iv: string;
}

/** Encrypts a body for one place. */
export async function seal(
  keys: KeyProvider,
  context: SealContext,
  body: Uint8Array,
  machine: SnapshotMachine = threadPool,
): Promise<Uint8Array> {
  const place = placeBytes(context);
  const { keyId, plain, wrapped } = await keys.generate(place);
  const iv = machine.randomBytes(12);
  const header: Header = {
    schema: SCHEMA,
    algorithm: ALGORITHM,
    keyId,
    wrapped: Buffer.from(wrapped).toString('base64'),
    iv: Buffer.from(iv).toString('base64'),
  };
  const headerBytes = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(2);
  length.writeUInt16BE(headerBytes.byteLength);
  const head = Buffer.concat([MAGIC, length, headerBytes]);
  const sealed = await machine.encrypt({ key: plain, iv, aad: Buffer.concat([place, head]) }, body);
  return Buffer.concat([head, sealed]);
}

/** The body again. Throws SnapshotUnreadable naming `key`, whatever is wrong. */
export async function unseal(
  keys: KeyProvider,
  context: SealContext,
  key: string,
  bytes: Uint8Array,
  machine: SnapshotMachine = threadPool,
): Promise<Uint8Array> {
  const { header, head, sealed } = readHead(key, bytes);
  const place = placeBytes(context);
  let plain: Uint8Array;
  try {
    plain = await keys.unwrap(header.keyId, Buffer.from(header.wrapped, 'base64'), place);
  } catch (error) {
    throw new SnapshotUnreadable(key, `its data key can not be unwrapped with key ${header.keyId}`, { cause: error });
  }
  try {
    const iv = Buffer.from(header.iv, 'base64');
    return await machine.decrypt({ key: plain, iv, aad: Buffer.concat([place, head]) }, sealed);
  } catch (error) {
    throw new SnapshotUnreadable(key, 'it is not what was written there', { cause: error });
  }
}

function readHead(
  key: string,
  bytes: Uint8Array,
): { header: Header; head: Uint8Array; sealed: Uint8Array<ArrayBuffer> } {
  const all = Buffer.from(bytes);
  const start = MAGIC.byteLength + 2;
  if (all.byteLength < start || !all.subarray(0, MAGIC.byteLength).equals(MAGIC)) {
    throw new SnapshotUnreadable(key, 'it is no snapshot object, or cut');
  }
  const end = start + all.readUInt16BE(MAGIC.byteLength);
  if (end - start > HEADER_BYTES_MAX || end > all.byteLength) throw new SnapshotUnreadable(key, 'its header is cut');
  let header: Partial<Header>;
  try {
    header = parseObject(all.toString('utf8', start, end));
  } catch (error) {
    throw new SnapshotUnreadable(key, 'its header is damaged', { cause: error });
  }
  const { schema, algorithm, keyId, wrapped, iv } = header;
  if (schema !== SCHEMA || algorithm !== ALGORITHM) {
    const is = `schema ${String(schema).slice(0, 20)}, algorithm ${String(algorithm).slice(0, 20)}`;
    throw new SnapshotUnreadable(key, `it has ${is}; known here: schema ${SCHEMA}, algorithm ${ALGORITHM}`);
  }
  if (typeof keyId !== 'string' || !/^[\w.:/-]{1,256}$/.test(keyId))
    throw new SnapshotUnreadable(key, 'it names no key');
  if (typeof wrapped !== 'string' || typeof iv !== 'string') throw new SnapshotUnreadable(key, 'its header is damaged');
  return {
    header: { schema, algorithm, keyId, wrapped, iv },
    head: all.subarray(0, end),
    sealed: new Uint8Array(all.subarray(end)),
  };
}

/** The place, each part with its length, so that no two places give the same bytes. */
function placeBytes({ batchId, object, purpose }: SealContext): Uint8Array {
  const parts = ['milkrun snapshot', String(SCHEMA), purpose, batchId, object].flatMap((part) => {
    const bytes = Buffer.from(part);
    const length = Buffer.alloc(4);
    length.writeUInt32BE(bytes.byteLength);
    return [length, bytes];
  });
  return Buffer.concat(parts);
}
