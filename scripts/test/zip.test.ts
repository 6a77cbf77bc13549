import { deflateRawSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { unzipOne } from '../lib/zip.mjs';

/** A zip of the given files, deflated or stored, as in the format's note: entries, directory, end record. */
function zipOf(files: Record<string, string>, method: 0 | 8): Buffer {
  const entries: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const [name, text] of Object.entries(files)) {
    const data = method === 8 ? deflateRawSync(Buffer.from(text)) : Buffer.from(text);
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt16LE(name.length, 26);
    const central = Buffer.alloc(46);
    central.writeUInt32LE(0x02014b50, 0);
    central.writeUInt16LE(method, 10);
    central.writeUInt32LE(data.length, 20);
    central.writeUInt16LE(name.length, 28);
    central.writeUInt32LE(offset, 42);
    entries.push(local, Buffer.from(name), data);
    directory.push(central, Buffer.from(name));
    offset += 30 + name.length + data.length;
  }
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(Object.keys(files).length, 10);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...entries, ...directory, end]);
}

test.each([0, 8] as const)('reads the wanted file, compression method %i', (method) => {
  const zip = zipOf({ 'a/readme': 'no', 'bin/temporal': 'the binary' }, method);
  expect(unzipOne(zip, (name) => name.endsWith('/temporal')).toString()).toBe('the binary');
});

test('says so when the file is absent or the bytes are no zip', () => {
  expect(() => unzipOne(zipOf({ a: '' }, 0), () => false)).toThrow('not in the zip');
  expect(() => unzipOne(Buffer.from('<html>a proxy page, longer than a record</html>'), () => true)).toThrow(
    'not a zip',
  );
});
