/**
 * Failpoints: places between a program and the ports through which it reaches the world, where a drill may break it. Named
 * `port.method[.variant]:before` and `…:after`. They exist only in a process that wraps its ports with them; without that
 * there is nothing to switch on.
 *
 * The table of effects is the list of points. Its type wants a line for each method of each port that answers with a
 * promise, so a new effect without a point does not compile.
 */
import { writeSync } from 'node:fs';

/**
 * `kill`, `stop` and `term` are the signal, sent by the process to itself: the first two are in force before the next
 * instruction. `reset` and `lost` are about the connection of the call. Before: whoever runs the drill breaks it, so that
 * nothing arrives, or all is done and the answer is lost. After: the answer has come; the connections are reset behind it,
 * or it is thrown away.
 */
export const FAULT_KINDS = ['kill', 'stop', 'term', 'reset', 'lost'] as const;
export type FaultKind = (typeof FAULT_KINDS)[number];

/** The server behind a port; `local` has no connection to break: its failures are made on the spot. */
export type Part = 'postgres' | 'temporal' | 'controlPlane' | 'pollFunction' | 'local';

export interface Effect<Arguments extends readonly unknown[]> {
  readonly part: Part;
  /** Names of variants, each a point of its own. */
  readonly variants?: readonly string[];
  /** Which of them a call is; undefined: none, and no point. */
  variantOf?(args: Arguments): string | undefined;
  /** What the caller is told when its answer is thrown away, where the port never throws. */
  lost?(args: Arguments): unknown;
}

/** A method that changes or reads nothing outside, and why. */
export interface NoEffect {
  readonly none: string;
}

type AsyncMethod = (...args: never[]) => PromiseLike<unknown>;

type EffectsOf<Port> = {
  readonly [Name in keyof Port as NonNullable<Port[Name]> extends AsyncMethod ? Name : never]-?:
    | Effect<Parameters<Extract<Port[Name], AsyncMethod>>>
    | NoEffect;
};

/** A line for each method of each port. */
export type EffectTable<Ports> = { readonly [Name in keyof Ports]: EffectsOf<Ports[Name]> };

type AnyTable = Readonly<Record<string, Readonly<Record<string, Effect<never> | NoEffect>>>>;

const isEffect = (line: Effect<never> | NoEffect): line is Effect<never> => !('none' in line);

/** Every point of a table. */
export function pointsOf<Ports>(table: EffectTable<Ports>): string[] {
  return Object.entries(table as AnyTable).flatMap(([port, methods]) =>
    Object.entries(methods).flatMap(([method, line]) => {
      if (!isEffect(line)) return [];
      const names = line.variants?.map((variant) => `${port}.${method}.${variant}`) ?? [`${port}.${method}`];
      return names.flatMap((name) => [`${name}:before`, `${name}:after`]);
    }),
  );
}

/** The part behind a point. */
export function partOf<Ports>(table: EffectTable<Ports>, point: string): Part {
  const [port = '', method = ''] = point.split(/[.:]/);
  const line = (table as AnyTable)[port]?.[method];
  if (line === undefined || !isEffect(line)) throw new Error(`there is no point ${point}`);
  return line.part;
}

/** A fault that waits at a point for the first call that comes by. */
export interface ArmedFault {
  readonly id: number;
  readonly point: string;
  readonly kind: FaultKind;
}

/** What a process says of its armed faults. */
export type FailpointReport =
  | { readonly said: 'hit'; readonly id: number; readonly part: Part }
  /** The call that was hit has ended; said of `reset` and `lost`. */
  | { readonly said: 'settled'; readonly id: number; readonly outcome: 'returned' | 'threw' };

export interface FailpointsOptions<Ports> {
  readonly table: EffectTable<Ports>;
  /** File descriptor for reports, one JSON line each; written synchronously, since a process may not live to do it later. */
  readonly reportTo: number;
  /** The error of a connection that broke, as an adapter of this part would throw it. */
  failure(part: Part): Error;
}

export interface Failpoints<Ports> {
  arm(fault: ArmedFault): void;
  disarm(id: number): void;
  /** The drill has broken the connection: the call may go on. */
  go(id: number): void;
  wrap<Name extends keyof Ports>(name: Name, port: Ports[Name]): Ports[Name];
}

export function createFailpoints<Ports>({ table, reportTo, failure }: FailpointsOptions<Ports>): Failpoints<Ports> {
  const armed = new Map<string, ArmedFault>();
  const waiting = new Map<number, () => void>();
  const report = (line: FailpointReport): void => void writeSync(reportTo, `${JSON.stringify(line)}\n`);

  function take(point: string): ArmedFault | undefined {
    const fault = armed.get(point);
    armed.delete(point);
    return fault;
  }

  /** Does what a fault does by itself; true when the connection has to be broken. */
  async function strike({ id, kind }: ArmedFault, part: Part): Promise<boolean> {
    if (kind === 'kill' || kind === 'stop' || kind === 'term') {
      report({ said: 'hit', id, part });
      process.kill(process.pid, { kill: 'SIGKILL', stop: 'SIGSTOP', term: 'SIGTERM' }[kind]);
      return false;
    }
    if (part !== 'local') {
      const gone = new Promise<void>((resolve) => waiting.set(id, resolve));
      report({ said: 'hit', id, part });
      await gone;
    } else report({ said: 'hit', id, part });
    return true;
  }

  async function call(name: string, effect: Effect<never>, args: never, run: () => Promise<unknown>): Promise<unknown> {
    const before = take(`${name}:before`);
    const broken = before !== undefined && (await strike(before, effect.part));
    let answer: unknown;
    try {
      if (broken && effect.part === 'local' && before.kind === 'reset') throw failure('local');
      answer = await run();
      if (broken && effect.part === 'local') throw failure('local');
    } catch (error) {
      if (broken) report({ said: 'settled', id: before.id, outcome: 'threw' });
      throw error;
    }
    if (broken) report({ said: 'settled', id: before.id, outcome: 'returned' });
    const after = take(`${name}:after`);
    if (after === undefined || !(await strike(after, effect.part)) || after.kind === 'reset') return answer;
    if (effect.lost !== undefined) return effect.lost(args);
    throw failure(effect.part);
  }

  return {
    arm: (fault) => void armed.set(fault.point, fault),
    disarm(id) {
      for (const [point, fault] of armed) if (fault.id === id) armed.delete(point);
    },
    go(id) {
      waiting.get(id)?.();
      waiting.delete(id);
    },
    wrap(name, port) {
      const effects = (table as AnyTable)[name as string] ?? {};
      const wrapped = new Map<string, unknown>();
      return new Proxy(port as object, {
        get(target, key) {
          const found = Reflect.get(target, key, target) as unknown;
          if (typeof found !== 'function' || typeof key !== 'string') return found;
          const line = effects[key];
          let method = wrapped.get(key);
          if (method === undefined) {
            const bound = found.bind(target) as (...args: unknown[]) => Promise<unknown>;
            method =
              line === undefined || !isEffect(line)
                ? bound
                : (...args: unknown[]) => {
                    const variant = line.variantOf?.(args as never);
                    if (line.variants !== undefined && variant === undefined) return bound(...args);
                    const point = `${String(name)}.${key}${variant === undefined ? '' : `.${variant}`}`;
                    return call(point, line, args as never, () => bound(...args));
                  };
            wrapped.set(key, method);
          }
          return method;
        },
      }) as Ports[typeof name];
    },
  };
}
