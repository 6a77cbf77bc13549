import { describe, expect, it } from 'vitest';
import { InvalidObjectStoreSetting, OBJECT_STORE_FORMS, parseObjectStoreSetting } from '../src/index.ts';

describe('OBJECT_STORE', () => {
  it.each([
    ['memory:', { kind: 'memory' }],
    ['fs:.milkrun/objects', { kind: 'fs', path: '.milkrun/objects' }],
    ['fs:C:\\milk run', { kind: 'fs', path: 'C:\\milk run' }],
    ['s3://bucket', { kind: 's3', bucket: 'bucket', prefix: '', pathStyle: false, checksums: 'when_supported' }],
    [
      's3://my.bucket-1/a/b/?region=eu-west-1',
      {
        kind: 's3',
        bucket: 'my.bucket-1',
        prefix: 'a/b',
        region: 'eu-west-1',
        pathStyle: false,
        checksums: 'when_supported',
      },
    ],
    [
      's3://bucket/p?endpoint=http://127.0.0.1:9000&checksums=when_required',
      {
        kind: 's3',
        bucket: 'bucket',
        prefix: 'p',
        endpoint: 'http://127.0.0.1:9000',
        region: 'us-east-1',
        pathStyle: true,
        checksums: 'when_required',
      },
    ],
    [
      's3://bucket?endpoint=https://s3.example.com&pathStyle=false&region=auto',
      {
        kind: 's3',
        bucket: 'bucket',
        prefix: '',
        endpoint: 'https://s3.example.com',
        region: 'auto',
        pathStyle: false,
        checksums: 'when_supported',
      },
    ],
  ])('reads %s', (text, setting) => {
    expect(parseObjectStoreSetting(text)).toEqual(setting);
  });

  it.each([
    ['', 'is of no known form'],
    ['memory', 'is of no known form'],
    ['memory:x', 'is of no known form'],
    ['file:/a', 'is of no known form'],
    ['fs:', 'names no directory'],
    ['fs: ', 'names no directory'],
    ['s3://', 'names no bucket'],
    ['s3://UPPER', 'names no bucket'],
    ['s3://b:80/', 'names no bucket'],
    ['s3://bucket/a//b', 'has the prefix'],
    ['s3://bucket/a%20b', 'has the prefix'],
    ['s3://bucket?endpoint=example.com', 'has an endpoint that is not'],
    ['s3://bucket?endpoint=http://h/path', 'has an endpoint that is not'],
    ['s3://bucket?region=EU', 'has the region'],
    ['s3://bucket?pathStyle=yes', 'has pathStyle "yes"'],
    ['s3://bucket?checksums=never', 'has checksums "never"'],
    ['s3://bucket?regoin=a', 'has the unknown parameter "regoin"'],
    ['s3://bucket?region=a&region=b', 'has the parameter "region" twice'],
  ])('refuses %j and says what is accepted', (text, problem) => {
    expect(() => parseObjectStoreSetting(text)).toThrow(InvalidObjectStoreSetting);
    expect(() => parseObjectStoreSetting(text)).toThrow(`OBJECT_STORE is "${text}", which ${problem}`);
    expect(() => parseObjectStoreSetting(text)).toThrow(`Accepted: ${OBJECT_STORE_FORMS}`);
  });

  it('never repeats a password', () => {
    let message = '';
    try {
      parseObjectStoreSetting('s3://AKIAKEY:hunter2@bucket/prefix');
    } catch (error) {
      message = (error as Error).message;
    }
    expect(message).toContain('s3://[redacted]@bucket/prefix');
    expect(message).not.toMatch(/hunter2|AKIAKEY/);
  });
});
