export { createDatabase } from './create-database.ts';
export {
  type ArmedFault,
  createFailpoints,
  type Effect,
  type EffectTable,
  FAULT_KINDS,
  type FailpointReport,
  type Failpoints,
  type FaultKind,
  type NoEffect,
  type Part,
  partOf,
  pointsOf,
} from './failpoints.ts';
export { type Fault, type FaultProxy, startFaultProxy } from './fault-proxy.ts';
export { type Nats, type NatsOptions, startNats } from './nats.ts';
export { PATIENCE } from './patience.ts';
export { type Postgres, type PostgresOptions, startPostgres } from './postgres.ts';
export {
  type AskedConnection,
  type PollCall,
  type Scripted,
  type SentResult,
  startControlPlaneStandIn,
  startPollFunctionStandIn,
} from './stand-ins.ts';
export { startTemporal, type Temporal, type TemporalOptions } from './temporal.ts';
export {
  type FrontendMethod,
  type FrontendVerdict,
  startTemporalFrontend,
  type TemporalFrontend,
} from './temporal-frontend.ts';
