export { JSON_SCHEMAS, parseDefinition } from './check-definition.ts';
export { type CommandDeps, drainCommands, startRun } from './commands.ts';
export {
  type CelRoots,
  type Condition,
  ConditionFailed,
  ConditionRefused,
  celRoots,
  compileCondition,
  compileKey,
  type Expression,
} from './condition.ts';
export { type CronExpression, CronRefused, parseCron } from './cron-expression.ts';
export {
  type ActivityDefinition,
  type AtEntry,
  atEntryOf,
  type ContextSource,
  type CronEntry,
  cronEntryOf,
  type DefinitionInput,
  type EventEntry,
  eventEntriesOf,
  type TaskTemplate,
} from './definition.ts';
export { durationMs } from './duration.ts';
export { type ActivityEvent, EVENT_LIMITS, eventOf, hopsOf, recordOf } from './event.ts';
export type { EventTypePolicy } from './event-schema.ts';
export {
  activityIdOfSchedule,
  eventKeyOf,
  runWorkflowIdOf,
  scheduledWorkflowIdOf,
  scheduleIdOf,
  taskIdOf,
} from './ids.ts';
export { compileMatcher, type Matcher, type MatchResult } from './match.ts';
export { decideTick, type MisfirePolicy, type TickDecision, type TickInput, type TickWindow } from './misfire.ts';
export { ACTIVITY_ID, ACTIVITY_QUEUES, ACTIVITY_WORKFLOWS } from './names.ts';
export { natsHeadersOf } from './nats-binding.ts';
export { decideOpen } from './open-run.ts';
export { PathRefused } from './path.ts';
export { type Plan, PlanFailed, type PlannedTask, type PlanRoots, planTasks, TASKS_MAX } from './plan.ts';
export { type Problem, Refused } from './problem.ts';
export { createRouter, type Delivery, type Routed, type Router, type RouterDeps } from './router.ts';
export type { RunResult, RunSteps, RunTrigger, TaskSteps } from './run-types.ts';
export {
  createSchedules,
  type ScheduleDeps,
  type Schedules,
  type SyncResult,
  type SyncStep,
} from './schedules.ts';
export { startOf } from './start-of.ts';
export {
  type OutboundAnswer,
  OutboundFailed,
  type OutboundHttp,
  type OutboundRequest,
  type RunDeps,
  type SqlReader,
} from './steps/deps.ts';
export { createRunSteps } from './steps/run-steps.ts';
export { createTaskSteps } from './steps/task-steps.ts';
export { storedDefinitionOf } from './stored-definition.ts';
export { hasPlaceholder, lineText, render, TEMPLATE_LIMITS, TemplateFailed, templateProblems } from './template.ts';
export {
  dueTicks,
  localText,
  type Naming,
  namingOf,
  nextTicks,
  type Tick,
  type TickRule,
  tickKeyOf,
  ticksAfter,
} from './ticks.ts';
export { misfirePolicyOf, tickRuleOf } from './time-trigger.ts';
export { type Zone, zoneOf, zoneProblem } from './zone.ts';
