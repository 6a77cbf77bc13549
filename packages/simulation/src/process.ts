/**
 * One process: what it waits for, its clock, and its end. All of it passes here, so a crash is the moment from which
 * nothing reaches it any more, and a pause one in which everything waits.
 */
import { type Clock, ObjectStoreUnavailable } from '@milkrun/core';
import type { CallFault, Faults } from './faults.ts';
import type { Random } from './random.ts';
import type { Timer, World } from './world.ts';

/** A call that failed on its way there or back; what became of it at the other end nobody here can say. */
export class Unreached extends Error {
  override readonly name = 'Unreached';
  readonly code = 'ECONNRESET';
}

export interface Surroundings {
  readonly world: World;
  readonly faults: Faults;
  readonly random: Random;
}

export interface CallOptions<T> {
  /** Port and method, for the trace: `db.commit`. */
  readonly site: string;
  readonly detail?: string;
  /** What the other end does; it is done at one instant. */
  readonly effect: () => T;
  readonly faults: readonly CallFault[];
  /** Milliseconds the other end takes before it answers; default 0. */
  readonly takesMs?: number;
  readonly signal?: AbortSignal | undefined;
  /** What is answered without anything being done: a refusal, a throttle. Undefined: it is done. */
  readonly instead?: (kind: CallFault) => T | undefined;
  /** What a damaged answer looks like; undefined where no answer can be damaged so. */
  readonly damage?: (answer: T, kind: CallFault) => T;
  /** The error of a failed call. */
  readonly error?: (message: string) => Error;
  /** How an answer reads in the trace. */
  readonly print?: (answer: T) => string;
}

/** Faults of the way there and back, which every call may suffer. */
export const BROKEN: readonly CallFault[] = [
  'fail_before',
  'fail_after',
  'time_out',
  'delay',
  'late_answer',
  'duplicate',
];
const TIME_OUT_MS = 20_000;

export class Process {
  readonly name: string;
  isDead = false;
  private readonly around: Surroundings;
  private pausedUntil = 0;
  private startedAt: number;
  private pausedMs = 0;
  /** Milliseconds its wall clock is off. */
  private offMs: number;

  constructor(name: string, around: Surroundings, offMs: number) {
    this.name = name;
    this.around = around;
    this.offMs = offMs;
    this.startedAt = around.world.time;
  }

  /** Milliseconds it has been running, pauses left out. */
  get ranMs(): number {
    return this.around.world.time - this.startedAt - this.pausedMs;
  }

  get isPaused(): boolean {
    return this.pausedUntil > this.around.world.time;
  }

  kill(): void {
    this.isDead = true;
    this.around.world.trace(`${this.name} died`);
  }

  pause(ms: number): void {
    if (this.isPaused) return;
    this.pausedUntil = this.around.world.time + ms;
    this.pausedMs += ms;
    this.around.world.trace(`${this.name} paused for ${Math.round(ms)} ms`);
  }

  jump(ms: number): void {
    this.offMs += ms;
    this.around.world.trace(`${this.name} clock jumped by ${Math.round(ms)} ms`);
  }

  readonly clock: Clock = {
    now: () => this.around.world.now() + this.offMs,
    monotonic: () => this.around.world.time,
    sleep: (ms, signal) =>
      new Promise((resolve, reject) => {
        if (signal?.aborted) {
          reject(signal.reason);
          return;
        }
        const timer = this.later(ms, () => {
          signal?.removeEventListener('abort', aborted);
          resolve();
        });
        const aborted = (): void => {
          timer.cancel();
          reject(signal?.reason);
        };
        signal?.addEventListener('abort', aborted, { once: true });
      }),
  };

  /** Runs something in this process after a while: not before a pause is over, never once it is dead. */
  later(ms: number, run: () => void): Timer {
    let cancelled = false;
    const { world, random } = this.around;
    const moment = (): void => {
      if (cancelled || this.isDead) return;
      if (this.isPaused) {
        world.after(this.pausedUntil - world.time + random.between(0, 5), moment);
        return;
      }
      world.touched();
      run();
    };
    world.after(ms, moment);
    return {
      cancel: () => {
        cancelled = true;
      },
    };
  }

  /** Calls another party: the request travels, something is done there, the answer travels back; or else. */
  call<T>(options: CallOptions<T>): Promise<T> {
    const { world, faults, random } = this.around;
    const { site, signal } = options;
    const label = options.detail === undefined ? site : `${site} ${options.detail}`;
    const fault = faults.strike(options.faults, `${this.name} ${label}`);
    if (fault !== undefined) world.trace(`${this.name} ${label} suffers ${fault}`);
    let there = random.between(0.2, 4);
    let back = random.between(0.2, 4) + (options.takesMs ?? 0);
    if (fault === 'delay') there += random.between(5_000, 90_000);
    if (fault === 'late_answer') back += random.between(5_000, 90_000);
    if (fault === 'time_out') back += TIME_OUT_MS;
    const isLost = fault === 'fail_before' || (fault === 'time_out' && random.chance(0.5));
    const fails = fault === 'fail_before' || fault === 'fail_after' || fault === 'time_out';
    const failed = options.error ?? ((message: string) => new Unreached(message));
    return new Promise<T>((resolve, reject) => {
      let isOver = false;
      const settle = (end: () => void): void => {
        if (isOver) return;
        isOver = true;
        signal?.removeEventListener('abort', aborted);
        end();
      };
      const aborted = (): void => settle(() => reject(signal?.reason));
      if (signal?.aborted) {
        reject(signal.reason);
        return;
      }
      signal?.addEventListener('abort', aborted, { once: true });
      world.after(there, () => {
        let answer: T | undefined;
        let thrown: unknown;
        if (!isLost) {
          try {
            const instead = fault === undefined ? undefined : options.instead?.(fault);
            answer = instead ?? options.effect();
            if (fault === 'duplicate') answer = options.effect();
            const isDamage = fault !== undefined && !BROKEN.includes(fault);
            if (isDamage && options.damage !== undefined) answer = options.damage(answer, fault);
          } catch (error) {
            thrown = error;
          }
          const said = thrown === undefined ? (options.print?.(answer as T) ?? 'done') : String(thrown);
          world.trace(`${this.name} ${label} → ${said}`);
        }
        this.later(back, () => {
          settle(() => {
            if (fails) reject(failed(`${site}: the connection was lost`));
            else if (thrown !== undefined) reject(thrown);
            else resolve(answer as T);
          });
        });
      });
    });
  }
}

export const unavailableStore = (message: string): Error => new ObjectStoreUnavailable(message);
