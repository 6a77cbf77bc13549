/** Temporal's client as the legacy pipeline and migrations need it: they query, signal and describe, which the engine does not. */
import { Client, type Connection } from '@temporalio/client';

export function createLegacyClient(connection: Connection, namespace: string): Client {
  return new Client({ connection, namespace });
}
