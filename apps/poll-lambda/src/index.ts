export { type PollFunction, type PollFunctionOptions, startPollFunction } from './poll-function.ts';
export { settingsFrom } from './settings.ts';
