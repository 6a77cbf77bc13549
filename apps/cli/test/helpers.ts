/** A console in memory, and an HTTP server that records what it is asked. */

import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach } from 'vitest';
import { type ExitCode, type Io, runCli } from '../src/index.ts';

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

export const onCleanup = (cleanup: () => unknown): void => void cleanups.push(cleanup);

export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'milkrun-cli-'));
  onCleanup(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export interface Ran {
  readonly code: ExitCode;
  readonly out: string;
  readonly err: string;
}

export async function run(
  args: readonly string[],
  env: Record<string, string> = {},
  stdin = '',
  isTty = false,
): Promise<Ran> {
  let [out, err] = ['', ''];
  const io: Io = {
    env: { TEMPORAL_CONFIG_FILE: '', MILKRUN_HOME: join(tmpdir(), 'milkrun-no-such-home'), ...env },
    out: (text) => {
      out += text;
    },
    err: (text) => {
      err += text;
    },
    isTty,
    readStdin: async () => stdin,
  };
  return { code: await runCli(args, io), out, err };
}

export interface Asked {
  readonly method: string;
  readonly path: string;
  readonly query: Record<string, string>;
  readonly key: string | undefined;
  readonly body: unknown;
}

export type Answer = { status?: number; body?: unknown; raw?: string };

export async function stubServer(answer: (asked: Asked) => Answer): Promise<{ url: string; asked: Asked[] }> {
  const asked: Asked[] = [];
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const text = Buffer.concat(chunks).toString();
    const url = new URL(request.url ?? '/', 'http://x');
    const one: Asked = {
      method: request.method ?? '',
      path: url.pathname,
      query: Object.fromEntries(url.searchParams),
      key: request.headers.authorization,
      body: text === '' ? undefined : JSON.parse(text),
    };
    asked.push(one);
    const { status = 200, body, raw } = answer(one);
    response.writeHead(status, { 'content-type': 'application/json' }).end(raw ?? JSON.stringify(body ?? {}));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onCleanup(() => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, asked };
}
