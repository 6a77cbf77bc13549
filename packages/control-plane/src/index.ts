export { type ControlPlaneOptions, type ControlPlaneTimeouts, createControlPlane } from './client.ts';
export { type ParsedChanges, parseChanges, parsePush, type RefusedChange } from './feed.ts';
export type { Wire, WireRequest } from './http.ts';
export { parseJson } from './json.ts';
export {
  authSchema,
  configSchema,
  connectionAnswerSchema,
  connectionBatchSchema,
  cursorSchema,
  deleteSchema,
  eventSchema,
  feedPageSchema,
  hasUnstorable,
  idSchema,
  issueText,
  LIMITS,
  lifecycleEchoSchema,
  lifecycleSchema,
  pollPolicySchema,
  printable,
  pushSchema,
  stateBodySchema,
  stateResultSchema,
  stateStatusSchema,
  timeSchema,
  triggerIdSchema,
  upsertSchema,
} from './schemas.ts';
export { connectionsBody, idempotencyKeyOf, retryAfterSeconds, stateBody } from './wire.ts';
