/** How the kit talks to the control plane under test: raw exchanges, judged by the checks and not by the client. */
import { Pool } from 'undici';
import { parseJson } from '../json.ts';

interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly text: string;
  /** Parsed body, undefined when it is no JSON. */
  readonly body: unknown;
}

export interface Probe {
  get(path: string, key?: string): Promise<Answer>;
  post(path: string, body: unknown, headers?: Readonly<Record<string, string>>, key?: string): Promise<Answer>;
  close(): Promise<void>;
}

const BYTES_MAX = 16 * 1024 * 1024;

export function createProbe(url: string, engineKey: string): Probe {
  const base = new URL(url);
  const prefix = base.pathname.replace(/\/+$/, '');
  const pool = new Pool(base.origin, { connections: 16, headersTimeout: 40_000, bodyTimeout: 40_000 });
  async function exchange(
    method: 'GET' | 'POST',
    path: string,
    key: string,
    body?: string,
    headers = {},
  ): Promise<Answer> {
    const answer = await pool.request({
      method,
      path: prefix + path,
      headers: {
        ...(key === '' ? {} : { authorization: `Bearer ${key}` }),
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      body: body ?? null,
    });
    const text = await readText(answer.body);
    let parsed: unknown;
    try {
      parsed = parseJson(text);
    } catch {
      parsed = undefined;
    }
    return { status: answer.statusCode, headers: answer.headers, text, body: parsed };
  }
  return {
    get: (path, key = engineKey) => exchange('GET', path, key),
    post: (path, body, headers = {}, key = engineKey) =>
      exchange('POST', path, key, typeof body === 'string' ? body : JSON.stringify(body), headers),
    close: () => pool.destroy(),
  };
}

async function readText(body: AsyncIterable<Uint8Array>): Promise<string> {
  const parts: Uint8Array[] = [];
  let bytes = 0;
  for await (const part of body) {
    bytes += part.byteLength;
    if (bytes > BYTES_MAX) throw new Error(`an answer is larger than ${BYTES_MAX} bytes`);
    parts.push(part);
  }
  return Buffer.concat(parts).toString('utf8');
}
