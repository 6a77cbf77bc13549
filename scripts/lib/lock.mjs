// A lock file for processes of one machine. Its holder's pid is inside; a dead holder's lock is taken over.
import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const WAIT_MS = 200;

/** @param {string} path @returns {string | undefined} */
function read(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

/** @param {number} pid */
function alive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // EPERM: it lives, but belongs to somebody else.
    return /** @type {NodeJS.ErrnoException} */ (error).code === 'EPERM';
  }
}

/**
 * Creates the lock whole: a reader never sees it without its content.
 * @param {string} path @param {string} content
 */
function create(path, content) {
  const draft = `${path}.${process.pid}`;
  writeFileSync(draft, content);
  try {
    linkSync(draft, path);
    return true;
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code === 'EEXIST') return false;
    throw error;
  } finally {
    rmSync(draft, { force: true });
  }
}

/**
 * Moves a dead holder's lock away; puts it back when somebody else was quicker and it is a living one's.
 * @param {string} path @param {string} stale
 */
function takeAway(path, stale) {
  const moved = `${path}.stale.${process.pid}`;
  try {
    renameSync(path, moved);
  } catch {
    return;
  }
  try {
    if (read(moved) !== stale) linkSync(moved, path);
  } catch {
    // A third process holds the lock by now: it stays.
  } finally {
    rmSync(moved, { force: true });
  }
}

/**
 * Runs `work` while holding the lock at `path`, waiting for a living holder first.
 * @template T
 * @param {string} path
 * @param {(holder: number) => void} onWait called once when another process holds the lock
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
export async function withLock(path, onWait, work) {
  mkdirSync(dirname(path), { recursive: true });
  const mine = `${process.pid} ${process.hrtime.bigint()}\n`;
  let told = false;
  while (!create(path, mine)) {
    const held = read(path);
    if (held === undefined) continue;
    const holder = Number.parseInt(held, 10);
    if (!(holder > 0) || holder === process.pid || !alive(holder)) {
      takeAway(path, held);
      continue;
    }
    if (!told) onWait(holder);
    told = true;
    await sleep(WAIT_MS);
  }
  const release = () => {
    if (read(path) === mine) rmSync(path, { force: true });
  };
  process.once('exit', release);
  try {
    return await work();
  } finally {
    process.removeListener('exit', release);
    release();
  }
}
