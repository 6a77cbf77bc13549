export { type RunningOrchestrator, startOrchestrator, syncSchedulesOnce } from './start-orchestrator.ts';
