/**
 * What sealing and packing take of the machine: compression, AES-256-GCM, random bytes and a turn of the event loop.
 *
 * The engine leaves the work to the thread pool, whose answers come in any order; the simulation does it in place, so
 * that the same seed gives the same run. The bytes are the same either way.
 */
import { randomBytes, webcrypto } from 'node:crypto';
import { setImmediate as turn } from 'node:timers/promises';
import { promisify } from 'node:util';
import { constants, zstdCompress, zstdDecompress } from 'node:zlib';

/** Everything a sealed body is bound to, and the key it is sealed with; the caller wipes neither. */
export interface CipherInput {
  /** 32 bytes; wiped before the answer comes. */
  readonly key: Uint8Array;
  /** 12 bytes. */
  readonly iv: Uint8Array;
  readonly aad: Uint8Array;
}

export interface SnapshotMachine {
  compress(bytes: Uint8Array): Promise<Uint8Array>;
  /** Throws above `bytesMax`, or when the bytes are not what `compress` made. */
  decompress(bytes: Uint8Array, bytesMax: number): Promise<Buffer>;
  /** AES-256-GCM, the 16-byte tag behind the ciphertext. */
  encrypt(input: CipherInput, body: Uint8Array): Promise<Uint8Array>;
  /** Throws when the tag does not match. */
  decrypt(input: CipherInput, sealed: Uint8Array): Promise<Uint8Array>;
  randomBytes(count: number): Uint8Array;
  /** Lets others have the event loop. */
  turn(): Promise<void>;
}

const zip = promisify(zstdCompress);
const unzip = promisify(zstdDecompress);

export const threadPool: SnapshotMachine = Object.freeze({
  compress: (bytes: Uint8Array) => zip(bytes, { params: { [constants.ZSTD_c_compressionLevel]: 1 } }),
  decompress: (bytes: Uint8Array, bytesMax: number) => unzip(bytes, { maxOutputLength: bytesMax }),
  async encrypt(input: CipherInput, body: Uint8Array) {
    const key = await imported(input.key, 'encrypt');
    return new Uint8Array(await webcrypto.subtle.encrypt(gcm(input), key, new Uint8Array(body)));
  },
  async decrypt(input: CipherInput, sealed: Uint8Array) {
    const key = await imported(input.key, 'decrypt');
    return new Uint8Array(await webcrypto.subtle.decrypt(gcm(input), key, new Uint8Array(sealed)));
  },
  randomBytes: (count: number) => randomBytes(count),
  turn: () => turn(),
});

function gcm({ iv, aad }: CipherInput) {
  return { name: 'AES-GCM', iv: new Uint8Array(iv), additionalData: new Uint8Array(aad), tagLength: 128 };
}

/** Imports the data key and wipes the copy we were given. */
async function imported(plain: Uint8Array, use: 'encrypt' | 'decrypt'): Promise<webcrypto.CryptoKey> {
  const key = await webcrypto.subtle.importKey('raw', new Uint8Array(plain), 'AES-GCM', false, [use]);
  plain.fill(0);
  return key;
}
