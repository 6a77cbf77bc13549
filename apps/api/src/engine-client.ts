/** Asks the engine's operations API for what only the engine knows. Bounded, timed, never a redirect. */
import { parseJson } from '@milkrun/control-plane';
import { Pool } from 'undici';
import { Problem } from './problems.ts';

export interface EngineClient {
  /** The answer's JSON. Throws a `Problem`: 503 without an engine or an answer, 404 as it came, 502 for the rest. */
  get(path: string): Promise<unknown>;
  close(): Promise<void>;
}

const TIMEOUT_MS = 10_000;
const BYTES_MAX = 4 * 1024 * 1024;

export function createEngineClient(url: string | undefined, key: string | undefined): EngineClient {
  if (url === undefined) {
    return {
      get: () => Promise.reject(new Problem(503, 'No engine is connected: set ENGINE_URL.')),
      close: () => Promise.resolve(),
    };
  }
  const base = new URL(url);
  const prefix = base.pathname.replace(/\/+$/, '');
  const pool = new Pool(base.origin, { connections: 8, connect: { timeout: TIMEOUT_MS } });
  return {
    async get(path) {
      const { status, body } = await exchange(path);
      if (status === 404) throw new Problem(404, 'The engine does not know it yet.');
      if (status !== 200 || body === undefined) throw new Problem(502, `The engine answered with status ${status}.`);
      return body;
    },
    close: () => pool.destroy(),
  };

  async function exchange(path: string): Promise<{ status: number; body: unknown }> {
    try {
      const answer = await pool.request({
        method: 'GET',
        path: prefix + path,
        headers: key === undefined ? {} : { authorization: `Bearer ${key}` },
        headersTimeout: TIMEOUT_MS,
        bodyTimeout: TIMEOUT_MS,
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      const parts: Uint8Array[] = [];
      let bytes = 0;
      for await (const part of answer.body as AsyncIterable<Uint8Array>) {
        bytes += part.byteLength;
        if (bytes > BYTES_MAX) throw new Error('the answer is too large');
        parts.push(part);
      }
      const text = Buffer.concat(parts).toString('utf8');
      return { status: answer.statusCode, body: answer.statusCode === 200 ? parseJson(text) : undefined };
    } catch (cause) {
      throw new Problem(503, `The engine does not answer at ENGINE_URL (${nameOf(cause)}).`);
    }
  }
}

const nameOf = (cause: unknown): string => String((cause as { code?: unknown }).code ?? (cause as Error).name);
