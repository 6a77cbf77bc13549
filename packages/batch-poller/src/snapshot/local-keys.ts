/**
 * KeyProvider over keys held by the process: BLOB_KEY.
 *
 * A key's id is a hash of it, so keys need no names and an object says which key it needs without giving it away. To
 * rotate, put the new key first and keep the old ones until the last object sealed with them has expired (7 days).
 */
import { createCipheriv, createDecipheriv, createHash, randomBytes, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { link, mkdir, open, unlink } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import type { KeyProvider } from '@milkrun/core';

const KEY_BYTES = 32;
const IV_BYTES = 12;
const TAG_BYTES = 16;
const ACCEPTED =
  'Accepted: 32 bytes in base64, or file:PATH of a file with one such key a line; several separated by commas, ' +
  'the first one seals and all open';

export class InvalidBlobKey extends Error {
  override readonly name = 'InvalidBlobKey';
}

/**
 * Reads the BLOB_KEY setting, files included, once.
 * Throws InvalidBlobKey; its message names the setting and what is accepted, never a key.
 */
export function createLocalKeys(setting: string): KeyProvider {
  const texts = setting.split(',').flatMap((part) => {
    const text = part.trim();
    return text.startsWith('file:') ? linesOf(text.slice('file:'.length)) : [text];
  });
  return createLocalKeysFrom(texts.map(keyOf));
}

/** The same from keys of 32 bytes; the first one seals. `random` makes data keys and IVs. */
export function createLocalKeysFrom(
  keys: readonly Uint8Array[],
  random: (count: number) => Uint8Array = randomBytes,
): KeyProvider {
  const byId = new Map(keys.map((key) => [idOf(key), Buffer.from(key)]));
  const [currentId] = byId.keys();
  if (currentId === undefined) throw new InvalidBlobKey(`BLOB_KEY holds no key. ${ACCEPTED}`);
  const keyNamed = (keyId: string): Buffer => {
    const key = byId.get(keyId);
    if (key === undefined) throw new Error(`no key ${keyId} in BLOB_KEY; it holds ${[...byId.keys()].join(', ')}`);
    return key;
  };
  return {
    async generate(aad) {
      const plain = random(KEY_BYTES);
      const iv = random(IV_BYTES);
      const cipher = createCipheriv('aes-256-gcm', keyNamed(currentId), iv).setAAD(aad);
      const wrapped = Buffer.concat([iv, cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
      return { keyId: currentId, plain, wrapped };
    },
    async unwrap(keyId, wrapped, aad) {
      const key = keyNamed(keyId);
      if (wrapped.byteLength !== IV_BYTES + KEY_BYTES + TAG_BYTES)
        throw new Error('the wrapped key has another length');
      const iv = wrapped.subarray(0, IV_BYTES);
      const decipher = createDecipheriv('aes-256-gcm', key, iv, { authTagLength: TAG_BYTES }).setAAD(aad);
      decipher.setAuthTag(wrapped.subarray(-TAG_BYTES));
      return Buffer.concat([decipher.update(wrapped.subarray(IV_BYTES, -TAG_BYTES)), decipher.final()]);
    },
  };
}

/**
 * Makes a key file with one fresh key, for its owner alone (mode 0600), unless there is a file: that is never touched.
 * Of processes that start at once one writes it and all read the same key.
 */
export async function createLocalKeyFile(path: string): Promise<'created' | 'exists'> {
  const file = resolve(path);
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  const draft = `${file}.${randomUUID()}`;
  const handle = await open(draft, 'wx', 0o600);
  try {
    await handle.writeFile(`${randomBytes(KEY_BYTES).toString('base64')}\n`);
    await handle.sync();
  } finally {
    await handle.close();
  }
  try {
    await link(draft, file);
    return 'created';
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    return 'exists';
  } finally {
    await unlink(draft);
  }
}

function linesOf(path: string): string[] {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new InvalidBlobKey(`BLOB_KEY names the file ${path}, which can not be read (${code}). ${ACCEPTED}`, {
      cause: error,
    });
  }
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'));
}

function keyOf(text: string, at: number): Uint8Array {
  const key = Buffer.from(text, 'base64');
  if (key.byteLength !== KEY_BYTES || !/^[A-Za-z0-9+/_-]{43}=?$/.test(text)) {
    throw new InvalidBlobKey(`BLOB_KEY: key ${at + 1} is not 32 bytes in base64. ${ACCEPTED}`);
  }
  return key;
}

function idOf(key: Uint8Array): string {
  if (key.byteLength !== KEY_BYTES)
    throw new InvalidBlobKey(`BLOB_KEY: a key has ${key.byteLength} bytes. ${ACCEPTED}`);
  return `local-${createHash('sha256').update('milkrun blob key').update(key).digest('hex').slice(0, 16)}`;
}
