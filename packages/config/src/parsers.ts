/** Readers of setting values: text in, value out, or `ValueError` whose message says what is accepted. */
import { isIP } from 'node:net';
import { Secret } from '@milkrun/core';

/** The message completes "accepted: …". */
export class ValueError extends Error {
  override readonly name = 'ValueError';
}

export interface Parser<T> {
  /** What is accepted, in a few words; for the reference and for refusals. */
  readonly accepts: string;
  parse(text: string): T;
}

const parser = <T>(accepts: string, parse: (text: string) => T | undefined): Parser<T> => ({
  accepts,
  parse(text) {
    const value = parse(text);
    if (value === undefined) throw new ValueError(accepts);
    return value;
  },
});

export const text = (accepts = 'a text', shape = /^\S(.*\S)?$/): Parser<string> =>
  parser(accepts, (value) => (shape.test(value) && value.length <= 4096 ? value : undefined));

/** Paths, in their order. */
export const paths = (): Parser<readonly string[]> =>
  parser('paths, separated by commas', (value) => {
    const list = value.split(',').map((path) => path.trim());
    return list.includes('') ? undefined : list;
  });

export const secret = (accepts: string, minLength = 1): Parser<Secret> =>
  parser(accepts, (value) => (value.length >= minLength && !/[\r\n]/.test(value) ? new Secret(value) : undefined));

export const integer = (min: number, max: number): Parser<number> =>
  parser(`an integer from ${min} to ${max}`, (value) => {
    const number = /^\d{1,15}$/.test(value) ? Number(value) : Number.NaN;
    return number >= min && number <= max ? number : undefined;
  });

export const choice = <const T extends string>(...values: readonly T[]): Parser<T> =>
  parser(values.join(' | '), (value) => values.find((known) => known === value));

const UNITS_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/** Milliseconds of `integer + ms s m h`; undefined for anything else. */
export function parseDuration(value: string): number | undefined {
  const match = /^(\d{1,9})(ms|s|m|h)$/.exec(value);
  return match === null ? undefined : Number(match[1]) * (UNITS_MS[match[2] as string] as number);
}

export function formatDuration(ms: number): string {
  const unit = ['h', 'm', 's'].find((name) => ms % (UNITS_MS[name] as number) === 0) ?? 'ms';
  return ms === 0 ? '0s' : `${ms / (UNITS_MS[unit] as number)}${unit}`;
}

/** Value in milliseconds. */
export const duration = (minMs: number, maxMs: number): Parser<number> =>
  parser(
    `an integer with ms, s, m or h, from ${formatDuration(minMs)} to ${formatDuration(maxMs)}, such as 45s`,
    (value) => {
      const ms = parseDuration(value);
      return ms !== undefined && ms >= minMs && ms <= maxMs ? ms : undefined;
    },
  );

const KIB: Readonly<Record<string, number>> = { '': 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 };

/** Value in bytes. */
export const bytes = (min: number, max: number, accepts: string): Parser<number> =>
  parser(accepts, (value) => {
    const match = /^(\d{1,12})(KiB|MiB|GiB)?$/.exec(value);
    const number = match === null ? Number.NaN : Number(match[1]) * (KIB[match[2] ?? ''] as number);
    return number >= min && number <= max ? number : undefined;
  });

const isUrl = (value: string, protocols: readonly string[]): boolean => {
  const url = URL.parse(value);
  return url !== null && protocols.includes(url.protocol) && url.hostname !== '';
};

/** Addresses that may hold a password are secrets as a whole; `printConfig` shows them without it. */
export const databaseUrl = (): Parser<Secret> =>
  parser('postgres://user:password@host:port/database', (value) =>
    isUrl(value, ['postgres:', 'postgresql:']) ? new Secret(value) : undefined,
  );

/** Names and addresses of databases; the whole is a secret. */
export const sqlConnections = (): Parser<Secret> =>
  parser('name=postgres://…, several separated by spaces', (value) => {
    const entries = value.trim().split(/\s+/);
    const isEntry = (entry: string): boolean => {
      const [, url = ''] = /^[a-z][a-z0-9_]{0,62}=(.+)$/.exec(entry) ?? [];
      return isUrl(url, ['postgres:', 'postgresql:']);
    };
    return entries.every(isEntry) ? new Secret(entries.join(' ')) : undefined;
  });

export const httpUrl = (): Parser<string> =>
  parser('http://host or https://host, without credentials', (value) => {
    const url = URL.parse(value);
    if (url === null || !isUrl(value, ['http:', 'https:']) || url.username !== '' || url.password !== '')
      return undefined;
    return value.replace(/\/+$/, '');
  });

export const natsUrl = (): Parser<Secret> =>
  parser('nats://host:port or tls://host:port', (value) =>
    isUrl(value, ['nats:', 'tls:']) ? new Secret(value) : undefined,
  );

const HOST_NAME = /^(\*\.)?[a-z0-9_]([\w-]*[a-z0-9_])?(\.[a-z0-9_]([\w-]*[a-z0-9_])?)*\.?$/i;

/** Whom to trust, as the address guard reads it. A range must be a whole one: a wrong width would allow nothing, silently. */
export const hostsAndRanges = (): Parser<string> =>
  parser(
    'hosts, addresses and ranges such as api.corp.example,*.lan,10.1.0.0/16,[::1], separated by commas',
    (value) => {
      const isEntry = (entry: string): boolean => {
        const bare = entry.replace(/^\[(.*)\]$/, '$1');
        const [address = '', width, ...more] = bare.split('/');
        const family = isIP(address);
        if (family === 0) return width === undefined && HOST_NAME.test(bare) && !/^[\d.]+$/.test(bare);
        if (width === undefined) return true;
        return more.length === 0 && /^\d{1,3}$/.test(width) && Number(width) <= (family === 4 ? 32 : 128);
      };
      return value.length <= 4096 && value.split(',').every(isEntry) ? value : undefined;
    },
  );

export const hostPort = (): Parser<string> =>
  parser('host:port', (value) => {
    const match = /^(\[[0-9a-f:]+\]|[^\s:/]+):(\d{1,5})$/i.exec(value);
    return match !== null && Number(match[2]) >= 1 && Number(match[2]) <= 65_535 ? value : undefined;
  });

/** The form only: the object store reads the rest of it, and refuses what it cannot use, when it is opened. */
export const objectStore = (): Parser<string> =>
  parser('fs:PATH, memory: or s3://bucket/prefix?endpoint=URL', (value) => {
    if (value === 'memory:' || (value.startsWith('fs:') && value.length > 3)) return value;
    const url = URL.parse(value);
    const isBucket = url?.protocol === 's3:' && /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/.test(url.hostname);
    return isBucket && url.username === '' && url.password === '' ? value : undefined;
  });

type ReadFile = (path: string) => string;

/** The text of a file that a setting names as `file:PATH`, or the setting itself. `readFile` gives a file's text or throws. */
function textIn(value: string, accepts: string, readFile: ReadFile): string {
  if (!value.startsWith('file:')) return value;
  try {
    return readFile(value.slice('file:'.length));
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? 'unreadable';
    throw new ValueError(`${accepts}; the file cannot be read (${code})`);
  }
}

function isKey(text: string): boolean {
  const bytes = Buffer.from(text, 'base64');
  return bytes.length === 32 && bytes.toString('base64') === text;
}

/** Base64 of 32 bytes, in the setting or in a file. */
export const sealingKey = (readFile: ReadFile): Parser<Secret> => {
  const accepts = '32 bytes in base64, or file:PATH of a file that holds them';
  return {
    accepts,
    parse(value) {
      const text = textIn(value, accepts, readFile).trim();
      if (!isKey(text)) throw new ValueError(accepts);
      return new Secret(text);
    },
  };
};

/** One or several of them, so that they can be exchanged; the secret is their texts, separated by commas. */
export const sealingKeys = (readFile: ReadFile): Parser<Secret> => {
  const accepts =
    '32 bytes in base64, or file:PATH of a file with one such key a line; several separated by commas: the first seals, all open';
  return {
    accepts,
    parse(value) {
      const texts = value.split(',').flatMap((part) =>
        textIn(part.trim(), accepts, readFile)
          .split('\n')
          .map((line) => line.trim())
          .filter((line) => line !== '' && !line.startsWith('#')),
      );
      if (texts.length === 0 || !texts.every(isKey)) throw new ValueError(accepts);
      return new Secret(texts.join(','));
    },
  };
};
