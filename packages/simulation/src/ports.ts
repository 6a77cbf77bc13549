/** The other ports of a process: object store, poll function, the wire to the control plane, Temporal's client. */
import { hash } from 'node:crypto';
import type { Wire, WireRequest } from '@milkrun/control-plane';
import type { BatchPollerInput, ObjectStore, PollReply, PollRunner, TimerManager } from '@milkrun/core';
import { type Client, WorkflowExecutionAlreadyStartedError } from '@temporalio/client';
import type { CallFault } from './faults.ts';
import type { Fact } from './history.ts';
import type { Answer, TakenResult } from './model/control-plane.ts';
import { pageOf } from './model/source.ts';
import { AlreadyStarted } from './model/temporal.ts';
import { BROKEN, type Process, unavailableStore } from './process.ts';
import type { Random } from './random.ts';
import type { Universe } from './universe.ts';

/** Stands in every credential; found in a stored object it is a leak. */
const SECRET = Buffer.from('secret of');

/** A byte changed, or the end cut off. */
function damaged(bytes: Uint8Array, kind: CallFault, random: Random): Uint8Array {
  if (bytes.byteLength === 0) return bytes;
  if (kind === 'truncate') return bytes.subarray(0, random.integer(0, bytes.byteLength - 1));
  const copy = Uint8Array.from(bytes);
  const at = random.integer(0, copy.byteLength - 1);
  copy[at] = (copy[at] as number) ^ (1 << random.integer(0, 7));
  return copy;
}

export function objectsOf(universe: Universe, process: Process): ObjectStore {
  const { objects, random, note } = universe;
  const short = (key: string): string => key.split('/').slice(1).join('/');
  return {
    putIfAbsent: (key, body) =>
      process.call({
        site: 'objects.put',
        detail: short(key),
        faults: [...BROKEN, 'corrupt', 'truncate'],
        error: unavailableStore,
        effect: () => {
          const done = objects.put(key, body);
          const leaks = Buffer.from(body).includes(SECRET);
          if (done === 'created') note({ kind: 'stored', key, leaks, orphaned: process.isDead });
          return done;
        },
        // What lies there is not what was written; who wrote it cannot know.
        damage: (answer, kind) => {
          if (answer === 'created') objects.damage(key, damaged(body, kind, random));
          return answer;
        },
        print: (answer) => answer,
      }),
    get: (key) =>
      process.call({
        site: 'objects.get',
        detail: short(key),
        faults: [...BROKEN, 'corrupt', 'truncate'],
        error: unavailableStore,
        effect: () => objects.get(key),
        damage: (bytes, kind) => (bytes === undefined ? undefined : damaged(bytes, kind, random)),
        print: (bytes) => `${bytes?.byteLength} bytes`,
      }),
    list: (prefix) =>
      process.call({
        site: 'objects.list',
        detail: short(prefix),
        faults: BROKEN,
        error: unavailableStore,
        effect: () => objects.list(prefix),
        print: (keys) => `${keys.length} keys`,
      }),
    delete: (key) =>
      process.call({
        site: 'objects.delete',
        detail: short(key),
        faults: BROKEN,
        error: unavailableStore,
        effect: () => objects.remove(key),
      }),
    probe: async () => {},
    close: async () => {},
  };
}

interface PollBody {
  readonly trigger: { readonly id: string };
  readonly auth: { readonly tenantId: string; readonly connectionId: string };
  readonly cursor: unknown;
}

const VERDICTS = [
  'poll.rate_limited',
  'poll.auth_rejected',
  'poll.connector_error',
  'poll.timeout',
  'poll.unavailable',
  'poll.response_invalid',
  'poll.too_large',
  'poll.permanent',
] as const;

export function runnerOf(universe: Universe, process: Process): PollRunner {
  const { sources, random, world } = universe;
  return {
    async poll({ body, signal, deadlineMs }): Promise<PollReply> {
      const request = JSON.parse(body) as PollBody;
      const triggerId = request.trigger.id;
      const cursor = request.cursor === null ? null : JSON.stringify(request.cursor);
      const fact: { -readonly [K in keyof Extract<Fact, { kind: 'polled' }>]: Extract<Fact, { kind: 'polled' }>[K] } = {
        kind: 'polled',
        at: world.time,
        triggerId,
        process: process.name,
        ranMs: process.ranMs,
        auth: request.auth,
        cursor,
        code: 'lost',
        items: [],
        cursorAfter: null,
      };
      universe.facts.push(fact);
      const late = new AbortController();
      const timer = process.later(deadlineMs, () => late.abort(new Error('the deadline has passed')));
      try {
        return await process.call<PollReply>({
          site: 'source.poll',
          takesMs: universe.faults.active ? universe.settings.pollMs : 0,
          detail: `${triggerId.slice(-4)} at ${cursor}`,
          faults: [...BROKEN, 'corrupt', 'throttle', 'verdict'],
          signal: signal === undefined ? late.signal : AbortSignal.any([signal, late.signal]),
          instead: (kind) => {
            const code =
              kind === 'throttle' ? 'poll.throttled' : kind === 'verdict' ? random.pick(VERDICTS) : undefined;
            if (code === undefined) return undefined;
            fact.code = code;
            const asks = code === 'poll.rate_limited' || code === 'poll.throttled';
            return {
              code,
              message: 'as the run wants it',
              ...(asks ? { retryAfterSeconds: random.integer(1, 90) } : {}),
            };
          },
          effect: () => {
            const source = sources.get(triggerId);
            if (source === undefined) return { code: 'poll.connector_error', message: 'no such source' };
            const { reply, positions } = pageOf(source, cursor);
            fact.code = reply.code;
            fact.items = [...fact.items, ...positions];
            if (reply.code === 'ok') fact.cursorAfter = reply.page.cursor;
            return reply;
          },
          damage: () => {
            fact.code = 'poll.response_invalid';
            return { code: 'poll.response_invalid', message: 'damaged on its way' };
          },
          print: (reply) => (reply.code === 'ok' ? `ok ${reply.page.items.length} → ${reply.page.cursor}` : reply.code),
        });
      } catch (error) {
        if (late.signal.aborted) return { code: 'poll.timeout', message: 'no answer within the deadline' };
        if (signal?.aborted) return { code: 'aborted' };
        return { code: 'poll.unavailable', message: String(error) };
      } finally {
        timer.cancel();
      }
    },
    available: () => true,
    close: async () => {},
  };
}

/** What an answer of a list may look like when ids are all that can be trusted. */
function scrambled(list: readonly object[], random: Random): object[] {
  const out = [...list];
  const at = random.integer(0, Math.max(0, out.length - 1));
  const one = out[at];
  switch (random.integer(0, 4)) {
    case 0:
      out.splice(at, 1);
      break;
    case 1:
      if (one !== undefined) out.push(one);
      break;
    case 2:
      out.push({ tenantId: 'stranger', connectionId: 'stranger', status: 'active', auth: {} });
      break;
    case 3:
      if (one !== undefined && 'tenantId' in one) out[at] = { ...one, tenantId: 'stranger' };
      break;
  }
  return out.reverse();
}

const THROTTLE = (random: Random): Answer => ({
  status: 429,
  headers: { 'retry-after': String(random.integer(1, 40)) },
  body: {},
});

export function wireOf(universe: Universe, process: Process): Wire {
  const { random, world, controlPlane, note } = universe;

  function refused(kind: CallFault, statuses: readonly number[]): Answer | undefined {
    if (kind === 'throttle') return THROTTLE(random);
    return kind === 'refuse' ? { status: random.pick(statuses), body: { reason: 'as the run wants it' } } : undefined;
  }

  const asResponse = (answer: Answer, kind?: CallFault) => {
    const text = typeof answer.body === 'string' ? answer.body : JSON.stringify(answer.body);
    // A byte that no JSON has: damage that still reads as an answer would be the transport's to find.
    const bytes = Buffer.from(text);
    if (kind === 'corrupt') bytes[random.integer(0, bytes.byteLength - 1)] = 0;
    const end = kind === 'truncate' ? random.integer(0, bytes.byteLength - 1) : bytes.byteLength;
    const parts = (async function* () {
      yield bytes.subarray(0, end);
    })();
    return {
      statusCode: answer.status,
      headers: { date: new Date(world.now()).toUTCString(), ...answer.headers },
      body: Object.assign(parts, { destroy: () => {} }),
    };
  };

  const post = async (
    request: WireRequest,
    site: string,
    serve: (body: never) => Answer,
    list: string,
    statuses: readonly number[],
  ) => {
    const text = request.body ?? '{}';
    const body = JSON.parse(text) as never;
    const path = list === 'results' ? '/state' : '/conn/batch';
    note({ kind: 'called', process: process.name, path, digest: hash('sha1', text) });
    let wound: CallFault | undefined;
    const answer = await process.call<Answer>({
      site,
      faults: [...BROKEN, 'throttle', 'refuse', 'scramble', 'corrupt', 'truncate'],
      signal: request.signal,
      instead: (kind) => refused(kind, statuses),
      effect: () => serve(body),
      damage: (honest, kind) => {
        if (kind !== 'scramble') {
          if (kind === 'corrupt' || kind === 'truncate') wound = kind;
          return honest;
        }
        const whole = honest.body as Record<string, readonly object[]>;
        return { ...honest, body: { ...whole, [list]: scrambled(whole[list] ?? [], random) } };
      },
      print: ({ status }) => String(status),
    });
    return asResponse(answer, wound);
  };

  /** The feed waits for a change before it answers, as long as it was asked to. */
  const feed = (request: WireRequest) => {
    const query = new URLSearchParams(request.path.split('?')[1] ?? '');
    const after = query.get('after');
    const limit = Number(query.get('limit'));
    const waitMs = Number(query.get('wait')) * 1000;
    const isQuiet = (): boolean => after !== null && controlPlane.changes(after, 1).changes.length === 0;
    const ask = () =>
      process.call<Answer>({
        site: 'cp.changes',
        detail: `after ${after}`,
        faults: [...BROKEN, 'throttle', 'refuse', 'stale', 'corrupt'],
        signal: request.signal,
        instead: (kind) => refused(kind, [500, 410]),
        effect: () => ({ status: 200, body: controlPlane.changes(after, limit) }),
        damage: (honest, kind) => {
          if (kind === 'corrupt') return { status: 200, body: '{"changes":[{' };
          // As it was a while ago: changes that were served already come again.
          const [base = '0', seq = '0'] = (after ?? '0.0').split('.');
          return after === null
            ? honest
            : { status: 200, body: controlPlane.changes(`${base}.${Math.max(0, Number(seq) - 3)}`, limit) };
        },
        print: ({ status, body }) =>
          `${status} ${(body as { changes?: readonly object[] }).changes?.length ?? 0} changes`,
      });
    return new Promise<Answer>((resolve, reject) => {
      if (!isQuiet()) {
        ask().then(resolve, reject);
        return;
      }
      const over = (): void => {
        stop();
        timer.cancel();
        request.signal.removeEventListener('abort', aborted);
      };
      const aborted = (): void => {
        over();
        reject(request.signal.reason);
      };
      const wake = (): void => {
        over();
        // Told outside the world's order: the answer comes at a moment of its own.
        process.later(random.between(0, 5), () => void ask().then(resolve, reject));
      };
      const stop = controlPlane.onChange(wake);
      const timer = process.later(waitMs, wake);
      request.signal.addEventListener('abort', aborted, { once: true });
    });
  };

  return {
    async request(request) {
      if (request.path.startsWith('/triggers/changes')) return asResponse(await feed(request));
      if (request.path === '/conn/batch')
        return await post(request, 'cp.connections', connections, 'connections', [500, 413, 401]);
      return await post(request, 'cp.state', state, 'results', [500, 503, 413, 401]);
    },
    timeout(ms) {
      const controller = new AbortController();
      process.later(ms, () => controller.abort(new Error('time-out')));
      return controller.signal;
    },
    close: async () => {},
  };

  function connections({ connections: asked }: { connections: { tenantId: string; connectionId: string }[] }): Answer {
    note({
      kind: 'asked',
      connections: asked.map(({ tenantId, connectionId }) => ({ tenantId, connectionId })),
    });
    return controlPlane.credentials(asked);
  }

  function state(body: Parameters<typeof controlPlane.take>[0]): Answer {
    const { answer, taken } = controlPlane.take(body);
    if (body.results.length > 0) {
      const results = taken.map(toldOf);
      note({ kind: 'told', batchId: body.batchId, process: process.name, status: answer.status, results });
    }
    return answer;
  }

  function toldOf({ result, status, refused: events }: TakenResult) {
    return {
      triggerId: result.triggerId,
      epoch: result.leaseEpoch,
      events: result.events.map(({ id, triggerid, data }) => ({ id, triggerId: triggerid, key: keyOfData(data) })),
      status,
      refused: events,
    };
  }

  function keyOfData(data: { readonly n?: number }): string {
    return typeof data?.n === 'number' ? `item-${data.n}` : '';
  }
}

export function timersOf(universe: Universe, process: Process, by: string): TimerManager {
  return {
    arm: (timerShard) => {
      universe.note({ kind: 'armed', by, process: process.name });
      return process
        .call({
          site: 'temporal.arm',
          detail: by,
          faults: BROKEN,
          effect: () => universe.temporal.arm(timerShard),
        })
        .catch(() => undefined);
    },
  };
}

/** As much of Temporal's client as the tick and the liveness loop use. */
export function clientOf(universe: Universe, process: Process): Client {
  const { temporal } = universe;
  const call = <T>(site: string, detail: string, effect: () => T): Promise<T> =>
    process.call({ site, detail, faults: BROKEN, effect });
  const workflow = {
    async start(
      type: string,
      {
        args,
        workflowIdReusePolicy,
      }: { readonly args: readonly [BatchPollerInput]; readonly workflowIdReusePolicy: string },
    ) {
      const [input] = args;
      try {
        await call('temporal.start', input.batchId, () =>
          temporal.start(input, workflowIdReusePolicy !== 'REJECT_DUPLICATE'),
        );
      } catch (error) {
        if (!(error instanceof AlreadyStarted)) throw error;
        throw new WorkflowExecutionAlreadyStartedError('already started', input.batchId, type);
      }
    },
    async *list() {
      for (const workflowId of await call('temporal.list', '', () => temporal.running())) yield { workflowId };
    },
    getHandle: (workflowId: string) => ({
      describe: async () => ({ runId: workflowId, status: { name: 'RUNNING' }, raw: {} }),
      terminate: () => call('temporal.terminate', workflowId, () => temporal.terminate(workflowId)),
    }),
  };
  return { workflow } as unknown as Client;
}
