export { AddressRefused } from './address-guard.ts';
export { type ConnectorCheck, type ConnectorFixtures, checkConnector } from './check-connector.ts';
export {
  ConfigInvalid,
  type Connector,
  type ConnectorDefinition,
  type Dedupe,
  defineConnector,
  type PollContext,
  type PollItem,
  type PollPolicy,
  type PollResult,
  type Settings,
} from './connector.ts';
export { type ErrorClass, PollError } from './errors.ts';
export { createHandler, type HandlerOptions, type PollFailure, type PollHandler } from './handler.ts';
export { guardedDispatcher, type Http, type HttpAnswer, type HttpRequest } from './http.ts';
export { httpJson } from './http-json/index.ts';
export { loadConnectors, loadModule } from './load-connectors.ts';
export { npmPackage } from './npm-package/index.ts';
export { synthetic, syntheticKey, syntheticSlots } from './synthetic/index.ts';

import { httpJson } from './http-json/index.ts';
import { npmPackage } from './npm-package/index.ts';
import { synthetic } from './synthetic/index.ts';

/** Every connector of this package, as `apps/poll-lambda` serves them. */
export const builtInConnectors = Object.freeze([npmPackage, httpJson, synthetic]);
