/** ScheduleStore: what keeping schedules in step and carrying out commands ask of registrydb. */
import type { OpenRunInput } from './activity-store.ts';

/** An activity with a cron or at entry, not deleted. */
export interface ScheduledActivity {
  readonly activityId: string;
  readonly tenantId: string;
  readonly slug: string;
  /** The current version, JSON text. */
  readonly spec: string;
  readonly enabled: boolean;
  readonly status: 'active' | 'done' | 'tripped';
  readonly statusReason: string | null;
  readonly disabledBy: string | null;
  readonly disabledReason: string | null;
  readonly coveredMs: number;
  /** As noted when the schedule was last written; null: never. */
  readonly scheduleFingerprint: string | null;
}

/** Something to be done in Temporal. */
export type ActivityCommand =
  | ({ readonly kind: 'start' } & StartCommand)
  | { readonly kind: 'task_done'; readonly taskId: string }
  | { readonly kind: 'cancel_run'; readonly workflowId: string };

export interface StartCommand {
  readonly activityId: string;
  readonly workflowId: string;
  readonly origin: OpenRunInput['origin'];
  readonly eventKey: string | null;
  readonly version: number | null;
  readonly dryRun: boolean;
  /** Nominal time of a tick that is made up for, RFC 3339. */
  readonly scheduledFor: string | null;
  /** The tick runs however late it is. */
  readonly forced: boolean;
}

export interface ScheduleStore {
  /** Names this database: schedules of another are never touched. */
  installation(): Promise<string>;
  scheduled(activityId?: string): Promise<readonly ScheduledActivity[]>;
  /** The schedule was written; `correction`: what was restored, for the audit trail. */
  noteSchedule(activityId: string, fingerprint: string, correction?: string): Promise<void>;
  /** Nominal times in (`afterMs`, `untilMs`] that have a run of whatever status. */
  openedTicks(activityId: string, afterMs: number, untilMs: number): Promise<ReadonlySet<number>>;
  /** Writes rows `missed` and moves the mark. */
  noteMissed(
    activityId: string,
    ticks: readonly { readonly nominalMs: number; readonly dedupeKey: string }[],
    reason: string,
    coveredMs: number,
  ): Promise<void>;
  /** Runs `work` while no other process does; undefined: another one is at it. */
  asLeader<T>(work: () => Promise<T>): Promise<T | undefined>;
  /** Adds commands, in a transaction of its own. */
  command(commands: readonly ActivityCommand[]): Promise<void>;
  /**
   * Hands due commands to `carryOut`, each in a transaction that removes it: one that fails comes again after a while.
   * Resolves to how many were carried out.
   */
  drainCommands(carryOut: (command: ActivityCommand) => Promise<void>, limit: number): Promise<number>;
  /** Calls `heard` when an activity was changed (its id) or commands are waiting (null). Resolves to what ends it. */
  listen(heard: (activityId: string | null) => void): Promise<() => Promise<void>>;
}
