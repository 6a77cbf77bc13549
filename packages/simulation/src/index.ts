export { CHECKERS, type Checker, checkHistory, type Finding } from './checkers.ts';
export { type ContractDb, contractClock, runContract } from './contract.ts';
export { CALL_FAULTS, MOMENT_FAULTS } from './faults.ts';
export type { Ending, Fact, History, Item, RowFacts, TriggerFacts } from './history.ts';
export { createModelWorkerDb, type ModelOptions, type ModelWorkerDb } from './model/workerdb.ts';
export { reportOf, rerunCommand } from './report.ts';
export { FOUND_SEEDS } from './seeds.ts';
export { type Shrunk, shrink } from './shrink.ts';
export { type Run, type RunOptions, simulate } from './simulate.ts';
