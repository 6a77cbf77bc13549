// A wheel is a zip: this reads one file out of it, so that no unzip program is needed.
import { inflateRawSync } from 'node:zlib';

const END_OF_DIRECTORY = 0x06054b50;
const UNPACKED_BYTES_MAX = 512 * 1024 * 1024;

/**
 * The first file whose name is wanted, by the central directory.
 * @param {Buffer} zip
 * @param {(name: string) => boolean} wanted
 * @returns {Buffer}
 * @throws when it is no zip, the file is not there, or it unpacks to more than 512 MiB
 */
export function unzipOne(zip, wanted) {
  let end = zip.length - 22;
  while (end >= 0 && zip.readUInt32LE(end) !== END_OF_DIRECTORY) end -= 1;
  if (end < 0) throw new Error('not a zip file');
  let at = zip.readUInt32LE(end + 16);
  for (let n = zip.readUInt16LE(end + 10); n > 0; n -= 1) {
    const method = zip.readUInt16LE(at + 10);
    const size = zip.readUInt32LE(at + 20);
    const nameLength = zip.readUInt16LE(at + 28);
    const extraLength = zip.readUInt16LE(at + 30) + zip.readUInt16LE(at + 32);
    if (wanted(zip.toString('utf8', at + 46, at + 46 + nameLength))) {
      const local = zip.readUInt32LE(at + 42);
      const start = local + 30 + zip.readUInt16LE(local + 26) + zip.readUInt16LE(local + 28);
      const data = zip.subarray(start, start + size);
      return method === 8 ? inflateRawSync(data, { maxOutputLength: UNPACKED_BYTES_MAX }) : data;
    }
    at += 46 + nameLength + extraLength;
  }
  throw new Error('the file is not in the zip');
}
