/** The parts with time in them, on a clock the test moves. */
import type { Clock } from '@milkrun/core';
import { describe, expect, it } from 'vitest';
import { createBreaker } from '../src/breaker.ts';
import { createByteBudget } from '../src/byte-budget.ts';
import { type Credentials, createCredentialsCache } from '../src/credentials.ts';
import { functionPathsOf } from '../src/function-name.ts';

function clockAt(ms: number): Clock & { move(by: number): void } {
  let now = ms;
  return {
    now: () => now,
    monotonic: () => now,
    sleep: () => Promise.reject(new Error('nobody sleeps here')),
    move: (by) => {
      now += by;
    },
  };
}

describe('breaker', () => {
  const open = (clock: ReturnType<typeof clockAt>) => {
    const breaker = createBreaker(clock, { failures: 3, spanMs: 100, pauseMs: 1_000, pauseMsMax: 4_000 });
    for (let i = 0; i < 3; i += 1) {
      clock.move(50);
      breaker.failed(false);
    }
    return breaker;
  };

  it('opens on a streak that is long in number and in time', () => {
    const clock = clockAt(0);
    const breaker = createBreaker(clock, { failures: 3, spanMs: 100 });
    for (let i = 0; i < 50; i += 1) breaker.failed(false);
    expect(breaker.available()).toBe(true);
    clock.move(100);
    breaker.failed(false);
    expect([breaker.available(), breaker.admit()]).toEqual([false, 'refuse']);
  });

  it('starts the streak anew with any answer', () => {
    const clock = clockAt(0);
    const breaker = createBreaker(clock, { failures: 2, spanMs: 0 });
    breaker.failed(false);
    breaker.answered();
    breaker.failed(false);
    expect(breaker.available()).toBe(true);
  });

  it('lets one probe through after the pause and the others wait for it', async () => {
    const clock = clockAt(0);
    const breaker = open(clock);
    clock.move(1_000);
    expect(breaker.available()).toBe(true);
    expect(breaker.admit()).toBe('probe');
    const waiting = breaker.admit();
    breaker.answered();
    await waiting;
    expect([breaker.isOpen(), breaker.admit()]).toEqual([false, 'go']);
  });

  it('doubles the pause with each failed probe up to its limit', () => {
    const clock = clockAt(0);
    const breaker = open(clock);
    for (const pause of [1_000, 2_000, 4_000, 4_000]) {
      clock.move(pause - 1);
      expect(breaker.admit()).toBe('refuse');
      clock.move(1);
      expect(breaker.admit()).toBe('probe');
      breaker.failed(true);
    }
  });

  it('is not moved by late failures of calls that began before it opened', () => {
    const clock = clockAt(0);
    const breaker = open(clock);
    clock.move(1_000);
    expect(breaker.admit()).toBe('probe');
    breaker.failed(false);
    expect(breaker.admit()).toBeInstanceOf(Promise);
  });

  it('lets the next call probe when a probe ended without telling anything', () => {
    const clock = clockAt(0);
    const breaker = open(clock);
    clock.move(1_000);
    expect(breaker.admit()).toBe('probe');
    breaker.undecided(true);
    expect(breaker.admit()).toBe('probe');
  });
});

describe('byte budget', () => {
  it('serves those who wait in order and never gives more than it has', async () => {
    const budget = createByteBudget(100);
    expect(budget.tryTake(80)).toBe(true);
    const ends: string[] = [];
    const first = budget.take(50, 60_000).then((end) => ends.push(`first ${end}`));
    const second = budget.take(10, 60_000).then((end) => ends.push(`second ${end}`));
    expect(budget.tryTake(10)).toBe(false);
    budget.giveBack(80);
    await Promise.all([first, second]);
    expect([ends, budget.taken()]).toEqual([['first won', 'second won'], 60]);
  });

  it('lets the next one in when the first gives up', async () => {
    const budget = createByteBudget(100);
    budget.tryTake(60);
    const giveUp = new AbortController();
    const first = budget.take(100, 60_000, giveUp.signal);
    const second = budget.take(40, 60_000);
    giveUp.abort();
    expect([await first, await second, budget.taken()]).toEqual(['aborted', 'won', 100]);
  });

  it('ends the wait in time', async () => {
    const budget = createByteBudget(1);
    budget.tryTake(1);
    expect(await budget.take(1, 1)).toBe('late');
    expect(budget.taken()).toBe(1);
  });
});

describe('credentials cache', () => {
  const at = (clock: Clock, id: string, lifeMs?: number): Credentials => ({
    accessKeyId: id,
    secretAccessKey: 's',
    ...(lifeMs === undefined ? {} : { expiration: new Date(clock.now() + lifeMs) }),
  });

  it('reads once for many callers and then answers at once', async () => {
    const clock = clockAt(0);
    let reads = 0;
    const cache = createCredentialsCache(async () => at(clock, `k${++reads}`), clock);
    const both = await Promise.all([cache.get(), cache.get()]);
    expect([reads, both[0] === both[1], cache.get() === both[0]]).toEqual([1, true, true]);
  });

  it('refreshes beside the calls before the end, and keeps the old ones when that fails', async () => {
    const clock = clockAt(0);
    const reads = [async () => at(clock, 'k1', 3_600_000), () => Promise.reject(new Error('down'))];
    reads.push(async () => at(clock, 'k2', 3_600_000));
    const cache = createCredentialsCache(() => (reads.shift() as () => Promise<Credentials>)(), clock);
    const first = await cache.get();
    clock.move(3_600_000 - 4 * 60_000);
    expect(cache.get()).toBe(first);
    await new Promise((resolve) => setImmediate(resolve));
    expect(cache.get()).toBe(first);
    await new Promise((resolve) => setImmediate(resolve));
    expect(cache.get()).toMatchObject({ accessKeyId: 'k2' });
  });

  it('makes callers wait, and fail, when the old ones are as good as expired', async () => {
    const clock = clockAt(0);
    const reads = [async () => at(clock, 'k1', 3_600_000), () => Promise.reject(new Error('down'))];
    const cache = createCredentialsCache(() => (reads.shift() as () => Promise<Credentials>)(), clock);
    await cache.get();
    clock.move(3_600_000 - 10_000);
    await expect(cache.get()).rejects.toThrow('down');
  });

  it('asks again after a refusal, but not at every one', async () => {
    const clock = clockAt(0);
    let reads = 0;
    const cache = createCredentialsCache(async () => at(clock, `k${++reads}`), clock);
    const first = await cache.get();
    cache.refuse(first);
    expect(cache.get()).toBe(first);
    clock.move(10_000);
    cache.refuse(first);
    expect(await cache.get()).toMatchObject({ accessKeyId: 'k2' });
  });

  it('refuses what cannot go into a header', async () => {
    const cache = createCredentialsCache(async () => ({ accessKeyId: 'a\r\nb', secretAccessKey: 's' }), clockAt(0));
    await expect(cache.get()).rejects.toThrow('no access key');
  });
});

describe('function name', () => {
  it('puts the whole name, alias and all, into one segment of the path', () => {
    const arn = 'arn:aws:lambda:eu-central-1:123456789012:function:poll-{toolkit}:live';
    expect(functionPathsOf(arn).invocations('git_hub')).toBe(
      '/2015-03-31/functions/arn%3Aaws%3Alambda%3Aeu-central-1%3A123456789012%3Afunction%3Apoll-git_hub%3Alive/invocations',
    );
  });

  it.each(['', '..', 'a/b', 'x:prod', 'ü', 'a'.repeat(65)])('has no path for the toolkit %j', (toolkit) => {
    expect(functionPathsOf('poll-{toolkit}').invocations(toolkit)).toBeUndefined();
    expect(functionPathsOf('poll').invocations(toolkit)).toBe('/2015-03-31/functions/poll/invocations');
  });

  it.each(['', '.', 'a b', 'a/b', 'http://x'])('refuses the name %j', (name) => {
    expect(() => functionPathsOf(name)).toThrow(RangeError);
  });
});
