/** PostgreSQL refuses to run as root: as which user it runs, and which directories that user can walk. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** Spread into spawn options; empty when we are no root ourselves. */
export interface Identity {
  readonly uid?: number;
  readonly gid?: number;
}

/** The user of the server: ourselves, or `postgres` (made when missing) when we are root. */
export function serverIdentity(): Identity {
  if (process.getuid?.() !== 0) return {};
  const known = idsOf('postgres');
  if (known) return known;
  execFileSync('groupadd', ['--force', 'postgres'], { stdio: 'pipe' });
  execFileSync('useradd', ['--system', '--no-create-home', '--gid', 'postgres', 'postgres'], { stdio: 'pipe' });
  const made = idsOf('postgres');
  if (!made) throw new Error('PostgreSQL does not run as root, and no user "postgres" could be made');
  return made;
}

function idsOf(user: string): Identity | undefined {
  try {
    const ask = (flag: string) => Number(execFileSync('id', [flag, user], { encoding: 'utf8', stdio: 'pipe' }));
    return { uid: ask('-u'), gid: ask('-g') };
  } catch {
    return undefined;
  }
}

/** Whether the server's user may walk down to `place`. */
export function reachable(place: string, identity: Identity): boolean {
  if (identity.uid === undefined) return true;
  for (let at = place; ; at = dirname(at)) {
    const { mode, uid, gid } = statSync(at);
    const bit = uid === identity.uid ? 0o100 : gid === identity.gid ? 0o010 : 0o001;
    if ((mode & bit) === 0) return false;
    if (dirname(at) === at) return true;
  }
}

/** A directory of root's that everybody can walk, standing in for one that the server's user can not reach. */
export function shelterOf(place: string): string {
  const name = `milkrun-${createHash('sha256').update(place).digest('hex').slice(0, 12)}`;
  const shelter = join('/var/tmp', name);
  mkdirSync(shelter, { recursive: true, mode: 0o755 });
  const { uid } = statSync(shelter);
  if (uid !== process.getuid?.()) throw new Error(`${shelter} belongs to somebody else (user ${uid}): remove it`);
  return shelter;
}
