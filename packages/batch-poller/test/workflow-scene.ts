/**
 * BatchPoller on a real Temporal server with steps that are scripted: what a step answers is a line of the script, what was
 * asked is a list. Each scene has its own task queues; the workflow's own queue names are kept as their last part.
 */
import { randomUUID } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { type BatchPollerInput, batchIdOf, QUEUES, WORKFLOWS } from '@milkrun/core';
import { ApplicationFailure } from '@temporalio/activity';
import { Client, Connection, type WorkflowHandle } from '@temporalio/client';
import { historyToJSON } from '@temporalio/common/lib/proto-utils.js';
import {
  bundleWorkflowCode,
  DefaultLogger,
  NativeConnection,
  Runtime,
  Worker,
  type WorkflowBundleWithSourceMap,
} from '@temporalio/worker';
import type { CommitStepInput } from '../src/activities/commit.ts';
import type { StepResult } from '../src/step.ts';
import type { BatchActivities } from '../src/temporal.ts';

const logger = new DefaultLogger('ERROR', () => undefined);
Runtime.install({ logger, telemetryOptions: { logging: { forward: {}, filter: { core: 'ERROR', other: 'ERROR' } } } });

export type StepName = 'claimAndSnapshot' | 'fetchAuth' | 'poll' | 'broadcast' | 'commit';
export const STEPS: readonly StepName[] = ['claimAndSnapshot', 'fetchAuth', 'poll', 'broadcast', 'commit'];

export interface Call {
  readonly step: StepName;
  readonly input: BatchPollerInput & Partial<CommitStepInput>;
}

type Answer = StepResult | (() => Promise<StepResult>);
export type Script = Partial<Record<StepName, Answer>>;

const OK: StepResult = { status: 'ok', done: 1, left: 0 };

export const sourceOf = (fixture: string): string => fileURLToPath(new URL(fixture, import.meta.url));
const bundles = new Map<string, Promise<WorkflowBundleWithSourceMap>>();

/** The workflows of a source file, as a worker runs them; made once a file. */
export function bundleOf(source = '../src/workflow.ts'): Promise<WorkflowBundleWithSourceMap> {
  let bundle = bundles.get(source);
  if (bundle === undefined) {
    const workflowInterceptorModules = [sourceOf('./fixtures/own-queues.ts')];
    bundle = bundleWorkflowCode({ workflowsPath: sourceOf(source), workflowInterceptorModules, logger });
    bundles.set(source, bundle);
  }
  return bundle;
}

/** A step that fails for good, as a broken object store makes it. */
export const broken: Answer = () => {
  throw ApplicationFailure.nonRetryable('the object store is away', 'StoreUnavailable');
};

export interface Scene {
  readonly calls: Call[];
  start(over?: Partial<BatchPollerInput>): Promise<WorkflowHandle>;
  close(): Promise<void>;
}

export async function openServer(address: string) {
  const connection = await Connection.connect({ address });
  const native = await NativeConnection.connect({ address });
  const client = new Client({ connection, identity: 'test' });

  /** `steps`: real ones, instead of what the script answers. */
  async function scene(script: Script = {}, steps?: BatchActivities): Promise<Scene> {
    const taskQueue = `batch-poller-test-${randomUUID()}`;
    const calls: Call[] = [];
    const stepOf = (step: StepName) => async (input: Call['input']) => {
      calls.push({ step, input });
      const answer = script[step] ?? OK;
      return typeof answer === 'function' ? await answer() : answer;
    };
    const { poll, ...rest } = steps ?? Object.fromEntries(STEPS.map((step) => [step, stepOf(step)]));
    const shared = { connection: native, identity: 'worker', shutdownGraceTime: 0, shutdownForceTime: 2_000 };
    const workers = await Promise.all([
      Worker.create({ ...shared, taskQueue, workflowBundle: await bundleOf() }),
      Worker.create({ ...shared, taskQueue: `${taskQueue}.${QUEUES.batchPoller}`, activities: rest }),
      Worker.create({ ...shared, taskQueue: `${taskQueue}.${QUEUES.poll}`, activities: { poll } }),
    ]);
    const running = workers.map((worker) => worker.run());
    const handles: WorkflowHandle[] = [];
    return {
      calls,
      async start(over = {}) {
        const batchId = batchIdOf(0, randomUUID());
        const input: BatchPollerInput = {
          batchId,
          timerShard: 0,
          size: 5000,
          retryCounter: 0,
          policy: { maxRetryCounter: 3, leaseSeconds: 45 },
          ...over,
        };
        const handle = await client.workflow.start(WORKFLOWS.batchPoller, {
          workflowId: input.batchId,
          taskQueue,
          args: [input],
        });
        handles.push(handle);
        return handle;
      },
      async close() {
        await Promise.all(handles.map((handle) => handle.terminate().catch(() => undefined)));
        for (const worker of workers) worker.shutdown();
        await Promise.all(running);
      },
    };
  }

  return {
    client,
    scene,
    close: async () => {
      await connection.close();
      await native.close();
    },
  };
}

export type History = Awaited<ReturnType<WorkflowHandle['fetchHistory']>>;

/** The first run's history once that run has ended, whatever came after it. */
export async function endedHistory(client: Client, handle: WorkflowHandle): Promise<History> {
  const runId = (handle as WorkflowHandle & { firstExecutionRunId: string }).firstExecutionRunId;
  const run = client.workflow.getHandle(handle.workflowId, runId, { followRuns: false });
  await run.result().catch(() => undefined);
  return await run.fetchHistory();
}

/** A history as kept in a file: without where it ran. */
export function recordOf(history: History): string {
  const json = JSON.parse(historyToJSON(history)) as unknown;
  return `${JSON.stringify(json, (key, value) => (key === 'stackTrace' ? '' : (value as unknown)), 2)}\n`;
}
