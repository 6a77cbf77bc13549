/** Temporal's client as the legacy pipeline and migrations need it: they query, signal and describe, which the engine does not. */
import { Client, type ClientOptions } from '@temporalio/client';

export function createLegacyClient(
  options: Required<Pick<ClientOptions, 'connection' | 'namespace' | 'dataConverter'>>,
): Client {
  return new Client(options);
}
