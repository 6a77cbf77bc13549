/**
 * The console's files, as Vite built them: one page, and scripts and styles whose names carry the hash of their content.
 * Without a build the page says how to make one. Public: they hold nothing but code, what they show is asked with a key.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import fastifyStatic from '@fastify/static';
import type { FastifyReply } from 'fastify';
import { z } from 'zod';
import { Problem } from '../problems.ts';
import type { App } from '../server.ts';

export const CONSOLE = join(import.meta.dirname, '..', '..', '..', 'console', 'dist');

/** No script, style, frame, form or address but our own; nothing inline. */
const HEADERS = {
  'content-security-policy': [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
  ].join('; '),
  'cross-origin-opener-policy': 'same-origin',
  'permissions-policy': 'camera=(), geolocation=(), microphone=()',
  'referrer-policy': 'no-referrer',
};

export async function consoleRoutes(app: App, directory: string): Promise<void> {
  const config = { policy: 'public' } as const;
  const schema = { hide: true };
  await app.register(fastifyStatic, { root: directory, serve: false, preCompressed: true, cacheControl: false });

  app.get('/', { config, schema }, (_request, reply) => {
    reply.headers(HEADERS);
    if (!existsSync(join(directory, 'index.html'))) {
      return reply
        .code(503)
        .type('text/plain; charset=utf-8')
        .send('The console is not built: npx vite build in apps/console, or npm start\n');
    }
    return reply.header('cache-control', 'no-cache').sendFile('index.html');
  });
  app.get(
    '/assets/:file',
    { config, schema: { ...schema, params: z.strictObject({ file: z.string().regex(/^[\w-]+\.(js|css|svg)$/) }) } },
    (request, reply) => sendAsset(reply, directory, request.params.file),
  );
}

function sendAsset(reply: FastifyReply, directory: string, file: string): FastifyReply {
  if (!existsSync(join(directory, 'assets', file))) throw new Problem(404, `There is no ${file}.`);
  return reply
    .headers({ ...HEADERS, 'cache-control': 'public, max-age=31536000, immutable' })
    .sendFile(`assets/${file}`);
}
