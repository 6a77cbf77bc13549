/** Starting, watching and steering migrations: what the engine's operations API offers. */
import type { Direction, MigrationScope } from '@milkrun/core';
import { type Client, WorkflowNotFoundError } from '@temporalio/client';
import { MIGRATION_QUEUE, MIGRATION_WORKFLOW, migrationIdOf } from './names.ts';
import type { MigrationInput, MigrationStatus } from './workflow.ts';

/** The request can not be served now; the message says why and what to do. */
export class MigrationRefused extends Error {
  override readonly name = 'MigrationRefused';
  readonly status: 404 | 409;
  constructor(status: 404 | 409, message: string) {
    super(message);
    this.status = status;
  }
}

export interface MigrationView extends MigrationStatus {
  readonly id: string;
  readonly startedAt: string;
  readonly endedAt: string | null;
}

export interface StartMigration {
  readonly direction: Direction;
  readonly scope: MigrationScope;
  readonly triggerIds?: readonly string[];
  /** Triggers begun a second at the most; default 50. */
  readonly perSecond?: number;
  readonly actor: string;
}

export interface Migrations {
  /** Answers its id. Throws MigrationRefused when nobody would run it. */
  start(input: StartMigration): Promise<string>;
  /** Newest first, at most `limit`; open ones among them. */
  list(limit: number): Promise<readonly MigrationView[]>;
  get(id: string): Promise<MigrationView>;
  pause(id: string): Promise<void>;
  resume(id: string): Promise<void>;
}

const PER_SECOND = 50;
const CHUNK_MAX = 50;

export function createMigrations(deps: { readonly client: Client; readonly makeId: () => string }): Migrations {
  const { client } = deps;
  const handleOf = (id: string) => client.workflow.getHandle(id);

  async function view(id: string): Promise<MigrationView> {
    const about = await handleOf(id).describe();
    if (about.type !== MIGRATION_WORKFLOW) throw new MigrationRefused(404, `there is no migration ${id}`);
    // Answered by a worker that runs the legacy pipeline, also when the migration is over.
    const status = await handleOf(id).query<MigrationStatus>('status');
    return {
      id,
      ...status,
      startedAt: about.startTime.toISOString(),
      endedAt: about.closeTime?.toISOString() ?? null,
    };
  }
  const known = async <T>(id: string, work: () => Promise<T>): Promise<T> => {
    try {
      return await work();
    } catch (error) {
      if (error instanceof WorkflowNotFoundError)
        throw new MigrationRefused(404, `there is no migration ${id}, or it is over`);
      throw error;
    }
  };

  return {
    async start({ direction, scope, triggerIds, perSecond = PER_SECOND, actor }) {
      if (!(await isServed(client))) {
        throw new MigrationRefused(
          409,
          'no worker runs the legacy pipeline, so nobody would do it: start one with --pipelines=both, or legacy',
        );
      }
      const input: MigrationInput = {
        direction,
        scope,
        ...(triggerIds === undefined ? {} : { triggerIds: [...new Set(triggerIds)] }),
        perSecond,
        // A chunk is what one second may begin, so that the rate is kept without long pauses.
        chunk: Math.max(1, Math.min(CHUNK_MAX, Math.floor(perSecond))),
        actor,
      };
      const id = migrationIdOf(deps.makeId());
      await client.workflow.start(MIGRATION_WORKFLOW, { taskQueue: MIGRATION_QUEUE, workflowId: id, args: [input] });
      return id;
    },
    async list(limit) {
      const ids: string[] = [];
      for await (const { workflowId } of client.workflow.list({ query: `WorkflowType = '${MIGRATION_WORKFLOW}'` })) {
        // A run that went on as new has the same id.
        if (!ids.includes(workflowId)) ids.push(workflowId);
        if (ids.length === limit) break;
      }
      return await Promise.all(ids.map(view));
    },
    get: (id) => known(id, () => view(id)),
    pause: (id) => known(id, () => handleOf(id).signal('pause')),
    resume: (id) => known(id, () => handleOf(id).signal('resume')),
  };
}

async function isServed(client: Client): Promise<boolean> {
  const { pollers } = await client.workflowService.describeTaskQueue({
    namespace: client.options.namespace,
    taskQueue: { name: MIGRATION_QUEUE },
    taskQueueType: 1,
  });
  return (pollers ?? []).length > 0;
}
