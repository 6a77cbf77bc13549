import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createLocalKeyFile, createLocalKeys, InvalidBlobKey } from '../../src/snapshot/local-keys.ts';
import { trigger } from '../factories.ts';
import { BATCH, createHarness, keyText } from './harness.ts';

let place: string;
beforeAll(async () => {
  place = await mkdtemp(join(tmpdir(), 'milkrun-keys-'));
});
afterAll(async () => {
  await rm(place, { recursive: true, force: true });
});

const AAD = Buffer.from('batch and name');

describe('BLOB_KEY', () => {
  it('wraps a fresh key each time and gives it back for the same place only', async () => {
    const keys = createLocalKeys(keyText());
    const [one, two] = [await keys.generate(AAD), await keys.generate(AAD)];
    expect(one.plain).toHaveLength(32);
    expect(one.plain).not.toEqual(two.plain);
    expect(await keys.unwrap(one.keyId, one.wrapped, AAD)).toEqual(one.plain);
    await expect(keys.unwrap(one.keyId, one.wrapped, Buffer.from('elsewhere'))).rejects.toThrow();
    await expect(keys.unwrap(one.keyId, one.wrapped.subarray(1), AAD)).rejects.toThrow();
    for (let at = 0; at < one.wrapped.byteLength; at += 1) {
      const changed = Uint8Array.from(one.wrapped);
      changed[at] = (changed[at] as number) ^ 1;
      await expect(keys.unwrap(one.keyId, changed, AAD)).rejects.toThrow();
    }
  });

  it('seals with the first key and opens with all, so keys can be exchanged while objects live', async () => {
    const [old, young] = [keyText(), keyText()];
    const harness = createHarness();
    await harness.fresh(createLocalKeys(old)).writeEntries(BATCH, [trigger()]);
    expect(await harness.fresh(createLocalKeys(`${young},${old}`)).readEntries(BATCH)).toEqual([trigger()]);
    expect(await harness.fresh(createLocalKeys(young)).readEntries(BATCH)).toBe('unreadable');
    const { keyId } = await createLocalKeys(`${young},${old}`).generate(AAD);
    expect(keyId).toBe((await createLocalKeys(young).generate(AAD)).keyId);
  });

  it('may name files with one key a line and remarks', async () => {
    const [one, two, three] = [keyText(), keyText(), keyText()];
    const file = join(place, 'several');
    await writeFile(file, `# since May\n${one}\n\n${two}\n`);
    const keys = createLocalKeys(`file:${file}, ${three}`);
    for (const text of [one, two, three]) {
      const { keyId, plain, wrapped } = await createLocalKeys(text).generate(AAD);
      expect(await keys.unwrap(keyId, wrapped, AAD)).toEqual(plain);
    }
    expect((await keys.generate(AAD)).keyId).toBe((await createLocalKeys(one).generate(AAD)).keyId);
  });

  it.each(['', 'short', 'x'.repeat(44), `${keyText()}AA`, 'file:', 'file:/does/not/exist', `${keyText()},hunter2`])(
    'refuses %j, says what is accepted and never repeats a key',
    (setting) => {
      let message = '';
      try {
        createLocalKeys(setting);
      } catch (error) {
        expect(error).toBeInstanceOf(InvalidBlobKey);
        message = (error as Error).message;
      }
      expect(message).toMatch(/^BLOB_KEY.*Accepted: 32 bytes in base64, or file:PATH/);
      const secrets = setting.split(',').filter((part) => part !== '' && !part.startsWith('file:'));
      expect(secrets.filter((secret) => message.includes(secret))).toEqual([]);
    },
  );

  it('names the key that is missing without showing any', async () => {
    const { keyId, wrapped } = await createLocalKeys(keyText()).generate(AAD);
    await expect(createLocalKeys(keyText()).unwrap(keyId, wrapped, AAD)).rejects.toThrow(`no key ${keyId} in BLOB_KEY`);
  });
});

describe('a key file', () => {
  it('is made once, for its owner alone, whoever comes first', async () => {
    const file = join(place, 'made', 'blob.key');
    const outcomes = await Promise.all(Array.from({ length: 16 }, () => createLocalKeyFile(file)));
    expect(outcomes.filter((outcome) => outcome === 'created')).toHaveLength(1);
    const before = await readFile(file, 'utf8');
    expect(await createLocalKeyFile(file)).toBe('exists');
    expect(await readFile(file, 'utf8')).toBe(before);
    expect((await stat(file)).mode & 0o777).toBe(0o600);
    const { keyId, plain, wrapped } = await createLocalKeys(`file:${file}`).generate(AAD);
    expect(await createLocalKeys(before.trim()).unwrap(keyId, wrapped, AAD)).toEqual(plain);
  });
});
