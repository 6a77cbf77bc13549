/** Serves `/metrics` on the wanted port, or on the next free one when further processes of the same machine hold it. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { TelemetryMetrics } from './metrics.ts';

const PORTS_TRIED = 100;

export interface MetricsServerOptions {
  readonly metrics: TelemetryMetrics;
  /** First port tried; 0 takes any free one. */
  readonly port: number;
  /** Default 127.0.0.1. */
  readonly host?: string;
  /** Further expositions appended to ours, such as the Temporal SDK's; one that fails is counted and left out. */
  readonly sources?: readonly (() => Promise<string>)[];
}

export interface MetricsServer {
  readonly port: number;
  readonly url: string;
  close(): Promise<void>;
}

/** Starts the server; throws when none of the hundred ports from `port` on is free. */
export async function startMetricsServer(options: MetricsServerOptions): Promise<MetricsServer> {
  const { metrics, port, host = '127.0.0.1', sources = [] } = options;
  const render = async (): Promise<string> => {
    const own = await metrics.exposition();
    const others = await Promise.all(
      sources.map(async (source) => {
        try {
          return await source();
        } catch {
          metrics.count('telemetry.scrape_errors');
          return '';
        }
      }),
    );
    return [own, ...others.filter((text) => text !== '')].join('\n');
  };
  const server = createServer((request, response) => {
    if (request.method !== 'GET' || request.url?.split('?')[0] !== '/metrics') {
      response.writeHead(404, { 'content-type': 'text/plain' }).end('GET /metrics\n');
      return;
    }
    render().then(
      (text) => response.writeHead(200, { 'content-type': 'text/plain; version=0.0.4; charset=utf-8' }).end(text),
      () => response.writeHead(500).end(),
    );
  });
  const taken = await listen(server, port, host);
  return {
    port: taken,
    url: `http://${host.includes(':') ? `[${host}]` : host}:${taken}/metrics`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function listen(server: Server, first: number, host: string): Promise<number> {
  for (let port = first; port < first + PORTS_TRIED && port <= 65_535; port += 1) {
    const failure = await new Promise<NodeJS.ErrnoException | undefined>((resolve) => {
      server.once('error', resolve);
      server.listen(port, host, () => {
        server.off('error', resolve);
        resolve(undefined);
      });
    });
    if (failure === undefined) return (server.address() as AddressInfo).port;
    if (failure.code !== 'EADDRINUSE' || first === 0) throw failure;
  }
  throw new Error(`METRICS_PORT: no free port between ${first} and ${first + PORTS_TRIED - 1}`);
}
