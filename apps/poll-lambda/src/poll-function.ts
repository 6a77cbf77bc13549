/** `milkrun poll-function`: the same connectors behind Lambda's Invoke API on this machine. */
import { builtInConnectors, type Connector, createHandler, type Settings } from '@milkrun/connectors';
import { startInvokeServer } from '@milkrun/poll-runner';

export interface PollFunctionOptions {
  /** Default 127.0.0.1. */
  readonly host?: string;
  /** Default 0: any free port. */
  readonly port?: number;
  readonly settings?: Settings;
  /** Polls at once; more answer 429. Default 1,000, Lambda's own default. */
  readonly concurrency?: number;
  /** Default: every built-in one. */
  readonly connectors?: readonly Connector[];
}

export interface PollFunction {
  /** For POLL_FUNCTION_ENDPOINT. */
  readonly endpoint: string;
  stop(): Promise<void>;
}

/** Rejects when the port cannot be had. */
export async function startPollFunction(options: PollFunctionOptions = {}): Promise<PollFunction> {
  const { host, port, concurrency, settings = {}, connectors = builtInConnectors } = options;
  const server = await startInvokeServer({
    handler: createHandler(connectors, { settings }),
    ...(host === undefined ? {} : { host }),
    ...(port === undefined ? {} : { port }),
    ...(concurrency === undefined ? {} : { concurrency }),
  });
  return { endpoint: server.endpoint, stop: () => server.close() };
}
