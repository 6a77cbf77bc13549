/**
 * `milkrun dev`: everything in one terminal. The parts are processes of their own, so a crash is seen as one and each has
 * its event loop; this process starts them in order, watches, shows figures, and on Ctrl-C lets them drain in reverse.
 *
 * Nothing is restarted in silence: when a part ends by itself, the rest is drained and the command fails with the
 * reason. What a killed run has left is ended by recorded id and start time before anything starts, and its data is used.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Config } from '@milkrun/config';
import { Secret } from '@milkrun/core';
import type { Context } from '../context.ts';
import { CommandFailed, EXIT, type ExitCode } from '../exit-codes.ts';
import { createHttpClient, type HttpClient } from '../http-client.ts';
import { stopRequest } from '../serve.ts';
import { type Child, startChild } from './child.ts';
import { addressesOf, childEnvironment, type Env, npmRegistry } from './environment.ts';
import { readFigures } from './figures.ts';
import { createFirstData } from './first-data.ts';
import { openHome, type RecordedProcess, readProcesses, writeDevFile, writeProcesses } from './home.ts';
import { endProcess, isAlive, startTimeOf } from './identity.ts';
import { createLive, type Live, TASKS_LOOKED_AT } from './live.ts';
import { isClean, runOnce } from './once.ts';
import { busyPorts } from './ports.ts';

export interface DevOptions {
  readonly fleet: number;
  readonly once: boolean;
}

const DRAIN_MS = 65_000;
const ORPHAN_GRACE_MS = 15_000;
const SHOW_EVERY_MS = 1000;
/** Tasks are counted at every fifth look. */
const TASKS_EVERY = 5;
/** A part that takes longer to start is reported. */
const SLOW_MS = 15_000;

/** Runs until Ctrl-C, or with `once` until everything has been polled. Answers the exit code. */
export async function dev(context: Context, options: DevOptions): Promise<ExitCode> {
  const { io } = context;
  const config = context.config('dev');
  const live = createLive(io);
  const home = openHome(config.home);
  await takeOver(home.path, live);
  await refuseBusyPorts(config);

  const stop = new AbortController();
  void stopRequest().then((why) => {
    live.say(`${why === 'SIGINT' ? 'Ctrl-C' : why}: draining (again to end at once)`);
    stop.abort(new CommandFailed('stopped', EXIT.ok));
  });
  const recorded: RecordedProcess[] = [{ name: 'dev', pid: process.pid, startedAt: startTimeOf(process.pid) ?? '' }];
  const record = (one: RecordedProcess): void => {
    recorded.push(one);
    writeProcesses(home.path, recorded);
  };
  writeProcesses(home.path, recorded);

  const children: Child[] = [];
  const start = async (name: string, args: readonly string[], env: Env): Promise<Child> => {
    stop.signal.throwIfAborted();
    live.note(`starting ${name} …`);
    const slow = setTimeout(() => {
      live.say(`${name} is not ready yet; what it waits for is at the end of ${home.path}/logs/${name}.log`);
    }, SLOW_MS);
    const child = await startChild({
      name,
      args,
      env,
      home: home.path,
      signal: stop.signal,
      onSpawn: record,
    }).finally(() => clearTimeout(slow));
    children.push(child);
    void child.ended.then((how) => {
      if (!stop.signal.aborted)
        stop.abort(new CommandFailed(`${name} has ended by itself (${how}); see ${home.path}/logs/${name}.log`));
    });
    return child;
  };

  try {
    const base: Env = { ...io.env, MILKRUN_HOME: home.path };
    const { ready } = await start('servers', ['dev-servers'], base);
    const { workerdb = '', registrydb = '', temporal = '', nats = '', postgresKind, temporalKind } = ready.addresses;
    const servers = { workerdbUrl: workerdb, registrydbUrl: registrydb, temporalAddress: temporal, natsUrl: nats };
    const env = childEnvironment(base, config, home.keys, home.path, servers);
    live.say(`PostgreSQL    ${postgresKind}, ${hostOf(workerdb)}`);
    live.say(
      nats === '' ? 'NATS          none: events reach activities through PostgreSQL' : `NATS          ${hostOf(nats)}`,
    );
    live.say(`Temporal      ${temporalKind === 'child' ? 'dev server' : temporalKind}, ${temporal}`);

    if (!base.POLL_FUNCTION && !base.POLL_FUNCTION_ENDPOINT) {
      const registry = config.npmRegistry ?? (await npmRegistry(base));
      const child = await start('poll-function', ['poll-function'], { ...env, NPM_REGISTRY: registry });
      live.say(`poll function ${child.ready.addresses['poll-function'] ?? 'ready'}`);
    }
    const ownControlPlane = !base.CONTROL_PLANE_URL;
    const at = addressesOf(config);
    if (ownControlPlane) {
      const child = await start('api', ['api'], env);
      live.say(`API, console  ${child.ready.addresses.api ?? at.api}`);
    }
    if (ownControlPlane) {
      await start('orchestrator', ['orchestrator'], env);
      live.say('activities    their schedules, runs and tasks');
    }
    const worker = await start('worker', ['worker'], env);
    const engineUrl = worker.ready.addresses.engine ?? at.engine;
    live.say(`engine        ${engineUrl}`);
    writeDevFile(home.path, { ...home.keys, apiUrl: at.api, engineUrl });

    const api = createHttpClient({ origin: at.api, name: 'the API', key: new Secret(home.keys.apiKey) });
    const engineKey = config.engineKey ?? new Secret(home.keys.engineKey);
    const engine = createHttpClient({ origin: engineUrl, name: 'the engine', key: engineKey });
    if (ownControlPlane) {
      const made = await createFirstData(api, {
        fleet: options.fleet,
        now: Date.now(),
        progress: (done, of) => live.say(`synthetic fleet ${done} of ${of}`),
      });
      if (made.packages > 0)
        live.say(
          `first data    ${made.packages} triggers, each watching an npm package; each new version becomes a task`,
        );
      if (made.fleet > 0) live.say(`first data    ${made.fleet} synthetic triggers`);
      if (!options.once) live.say(`\nOpen ${at.api}/#key=${home.keys.apiKey}\n`);
    }

    if (options.once) {
      const source = options.fleet > 0 ? 'synthetic' : 'real';
      const onFigures = (figures: Parameters<Live['show']>[0]): void => live.show(figures, performance.now());
      const summary = await runOnce({ engine, api, source, signal: stop.signal, onFigures });
      live.end();
      stop.abort(new CommandFailed('done', EXIT.ok));
      await drain(children, live);
      io.out(context.json ? `${JSON.stringify(summary)}\n` : `${summaryText(summary)}\n`);
      return isClean(summary) ? EXIT.ok : EXIT.failure;
    }
    let waiting: number | undefined;
    for (let look = 0; ; look += 1) {
      if (ownControlPlane && look % TASKS_EVERY === 0) waiting = await waitingTasks(api);
      live.show(await readFigures(engine), performance.now(), waiting);
      await delay(SHOW_EVERY_MS, undefined, { signal: stop.signal });
    }
  } catch (error) {
    // What failed because something ended is explained by what ended it.
    const reason: unknown = stop.signal.aborted ? stop.signal.reason : error;
    if (reason instanceof CommandFailed && reason.exitCode === EXIT.ok) return EXIT.ok;
    throw reason;
  } finally {
    live.end();
    if (!stop.signal.aborted) stop.abort(new CommandFailed('ended', EXIT.ok));
    await drain(children, live);
    writeProcesses(home.path, []);
  }
}

async function waitingTasks(api: HttpClient): Promise<number> {
  const query = { mode: 'human', status: 'waiting', limit: TASKS_LOOKED_AT };
  return (await api.list('/activity-tasks', query)).length;
}

/** In reverse order of start: the worker first, while everything it needs is still there. */
async function drain(children: Child[], live: Live): Promise<void> {
  if (children.length === 0) return;
  const startedAt = performance.now();
  for (let child = children.pop(); child !== undefined; child = children.pop()) {
    live.note(`stopping ${child.name} …`);
    const drained = await child.stop(DRAIN_MS);
    if (!drained) live.say(`${child.name} has not ended after ${DRAIN_MS / 1000} s and was killed`);
  }
  live.say(`everything has ended, after ${((performance.now() - startedAt) / 1000).toFixed(1)} s`);
}

/** Ends what a killed run has left. A run that lives is not touched. */
async function takeOver(path: string, live: Live): Promise<void> {
  const left = readProcesses(path).filter((one) => one.pid !== process.pid && isAlive(one));
  const parent = left.find(({ name }) => name === 'dev');
  if (parent !== undefined) {
    throw new CommandFailed(
      `milkrun dev already runs in ${path} (process ${parent.pid}): stop it, or set MILKRUN_HOME to another folder`,
    );
  }
  if (left.length === 0) return;
  live.say(`an earlier run was killed: ending its ${left.map(({ name, pid }) => `${name} (${pid})`).join(', ')}`);
  const isServer = ({ name }: RecordedProcess): boolean => ['servers', 'temporal', 'nats'].includes(name);
  await Promise.all(left.filter((one) => !isServer(one)).map((one) => endProcess(one, ORPHAN_GRACE_MS)));
  await Promise.all(left.filter(isServer).map((one) => endProcess(one, ORPHAN_GRACE_MS)));
}

async function refuseBusyPorts(config: Config): Promise<void> {
  const busy = await busyPorts([
    { setting: 'API_PORT', host: config.apiHost, port: config.apiPort },
    { setting: 'ENGINE_PORT', host: config.engineHost, port: config.enginePort },
    { setting: 'POLL_FUNCTION_PORT', host: config.pollFunctionHost, port: config.pollFunctionPort },
  ]);
  if (busy.length === 0) return;
  const lines = busy.map(
    ({ setting, port }) => `  port ${port} is in use by another program: set ${setting} to a free one`,
  );
  throw new CommandFailed(`milkrun dev cannot start:\n${lines.join('\n')}`, EXIT.refusedConfiguration);
}

const hostOf = (url: string): string => URL.parse(url)?.host ?? '';

function summaryText(summary: object): string {
  return Object.entries(summary)
    .map(([name, value]) => `${name} ${value}`)
    .join(', ');
}
