export { integerFrom, UsageError } from './command-line.ts';
export { type RunnerInput, runBench, runDrill } from './runner.ts';
export type { Bench, Drill, DrillInput, DrillResult, Figures, Flags, Say } from './types.ts';
