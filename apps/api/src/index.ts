export { type ApiConfig, type ApiOptions, FIRST_TENANT, type RunningApi, startApi } from './start.ts';
