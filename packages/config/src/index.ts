export { ConfigError, type ConfigProblem } from './config-error.ts';
export {
  type Config,
  type LoadConfigOptions,
  loadConfig,
  printConfig,
  type ShownSetting,
  type Source,
  shownConfig,
  type TemporalConfig,
} from './load.ts';
export { OPTIONS, type Option, type OptionKey, PROCESSES, type Process } from './options.ts';
export { formatDuration, parseDuration } from './parsers.ts';
