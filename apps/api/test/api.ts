/** The real API on a fresh database, with keys of two tenants, and short ways to call it. */

import { type ApiConfig, startApi } from '@milkrun/api';
import { noLog, Secret, systemClock } from '@milkrun/core';
import { createMetrics } from '@milkrun/telemetry';
import { createDatabase } from '@milkrun/testkit';
import { request } from 'undici';
import { inject } from 'vitest';

export const ENGINE_KEY = 'engine-key-of-the-tests';
const FIRST_KEY = 'first-key-of-the-tests';

export interface Reply {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: answers of any route, looked into by tests
  readonly body: any;
}

export async function startTestApi(more: Partial<ApiConfig> = {}, options: { readonly consoleFiles?: string } = {}) {
  const registrydbUrl = await createDatabase(inject('pgUrl'));
  const metrics = createMetrics({ prometheus: true, onUnknown: 'throw' });
  const config: ApiConfig = {
    apiHost: '127.0.0.1',
    apiPort: 0,
    registrydbUrl: new Secret(registrydbUrl),
    registryKey: new Secret(Buffer.alloc(32, 9).toString('base64')),
    controlPlaneKey: new Secret(ENGINE_KEY),
    apiKey: new Secret(FIRST_KEY),
    ...more,
  };
  const api = await startApi({ config, log: noLog, metrics, clock: systemClock, ...options });

  async function call(
    method: string,
    path: string,
    body?: unknown,
    { key = FIRST_KEY, headers = {} }: { key?: string; headers?: Record<string, string> } = {},
  ): Promise<Reply> {
    const answer = await request(api.url + path, {
      method: method as 'GET',
      headers: {
        ...(key === '' ? {} : { authorization: `Bearer ${key}` }),
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      body: body === undefined ? null : typeof body === 'string' ? body : JSON.stringify(body),
    });
    const text = await answer.body.text();
    const isJson = String(answer.headers['content-type']).includes('json');
    return { status: answer.statusCode, headers: answer.headers, text, body: isJson ? JSON.parse(text) : undefined };
  }

  const credentials = { type: 'bearer', token: 'hush-hush' };
  const connect = async (key = FIRST_KEY): Promise<string> =>
    (await call('POST', '/connections', { toolkit: 'npm', name: 'npm', credentials }, { key })).body.id;
  const connectionId = await connect();
  const triggerBody = (own: object = {}) => ({
    toolkit: 'npm',
    slug: 'new-version',
    config: { package: 'zod' },
    connectionId,
    intervalSeconds: 300,
    ...own,
  });
  const createTrigger = async (own: object = {}, key = FIRST_KEY) =>
    (await call('POST', '/triggers', triggerBody(own), { key })).body;

  /** A key of a second tenant. */
  async function otherTenant(): Promise<string> {
    await api.registry.keys.ensureTenant('other', 'Other');
    const actor = { tenantId: 'other', name: 'test' };
    const { SCOPES } = await import('@milkrun/registrydb');
    return (await api.registry.keys.create({ actor, tenantId: 'other', name: 'other', scopes: SCOPES })).secret;
  }

  return {
    api,
    url: registrydbUrl,
    metrics,
    call,
    connect,
    connectionId,
    triggerBody,
    createTrigger,
    otherTenant,
    engine: (method: string, path: string, body?: unknown) => call(method, path, body, { key: ENGINE_KEY }),
    async [Symbol.asyncDispose]() {
      await api.close();
      await metrics.close();
    },
  };
}
