/** The pure parts alone: definitions, events and ticks, without the steps and their libraries. */
export { JSON_SCHEMAS, parseDefinition } from './check-definition.ts';
export { celRoots, compileCondition } from './condition.ts';
export { type ActivityDefinition, atEntryOf, cronEntryOf, eventEntriesOf, eventType } from './definition.ts';
export { type ActivityEvent, eventOf, recordOf } from './event.ts';
export { compileEventSchema, createTypeCheck, type EventTypePolicy, type TypeCheck } from './event-schema.ts';
export { eventKeyOf, runWorkflowIdOf } from './ids.ts';
export { compileMatcher } from './match.ts';
export { PlanFailed, planTasks } from './plan.ts';
export { type Problem as DefinitionProblem, Refused } from './problem.ts';
export { startOf } from './start-of.ts';
export { storedDefinitionOf } from './stored-definition.ts';
export { dueTicks, nextTicks } from './ticks.ts';
export { tickRuleOf } from './time-trigger.ts';
