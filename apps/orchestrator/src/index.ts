export { BUS, type Bus, type BusDeps, openBus } from './jetstream.ts';
export { createOutbound } from './outbound.ts';
export { type RunningOrchestrator, startOrchestrator, syncSchedulesOnce } from './start-orchestrator.ts';
