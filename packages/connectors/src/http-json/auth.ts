/** Credentials as headers: what the configuration asks for, from what the connection has. */
import { z } from 'zod';
import { PollError } from '../errors.ts';
import type { HttpJsonConfig } from './config.ts';

const secret = z.string().min(1).max(16_384);
const authSchema = z.object({
  token: secret.optional(),
  accessToken: secret.optional(),
  apiKey: secret.optional(),
  username: z.string().max(1_024).optional(),
  password: z.string().max(16_384).optional(),
});

/** Throws PollError `auth` when the connection lacks what the configuration asks for. */
export function authHeaders(wanted: HttpJsonConfig['auth'], auth: unknown): Record<string, string> {
  if (wanted.type === 'none') return {};
  const parsed = authSchema.safeParse(auth ?? {});
  if (!parsed.success) throw new PollError('auth', 'the connection has no usable credentials');
  const { token, accessToken, apiKey, username, password } = parsed.data;
  if (wanted.type === 'basic') {
    if (username === undefined) throw new PollError('auth', 'the connection has no username');
    return { authorization: `Basic ${Buffer.from(`${username}:${password ?? ''}`).toString('base64')}` };
  }
  const value = accessToken ?? token ?? apiKey;
  if (value === undefined || !/^[\x20-\x7e]+$/.test(value)) throw new PollError('auth', 'the connection has no token');
  return wanted.type === 'bearer' ? { authorization: `Bearer ${value}` } : { [wanted.name.toLowerCase()]: value };
}
