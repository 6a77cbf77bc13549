/** Routes of connections. Credentials go in and never come out. */
import type { ConnectionView, Registry } from '@milkrun/registrydb';
import type { FastifyReply } from 'fastify';
import { z } from 'zod';
import { actorOf, callerOf } from '../access.ts';
import { idParams, ifVersionOf, pageOf, positionOf, setVersion, toPage } from '../http-conventions.ts';
import {
  connectionBody,
  connectionSchema,
  createConnectionBody,
  listConnectionsQuery,
  patchConnectionBody,
} from '../schemas.ts';
import type { App } from '../server.ts';

export function connectionRoutes(app: App, { connections }: Registry): void {
  const read = { policy: 'connections:read' } as const;
  const write = { policy: 'connections:write' } as const;
  const answer = (reply: FastifyReply, view: ConnectionView) => {
    setVersion(reply, view.version);
    return connectionBody(view);
  };

  app.post(
    '/connections',
    {
      config: write,
      schema: { summary: 'Create a connection', body: createConnectionBody, response: { 201: connectionSchema } },
    },
    async (request, reply) => {
      const view = await connections.create(actorOf(request), request.body);
      reply.code(201).header('location', `/connections/${view.id}`);
      return answer(reply, view);
    },
  );
  app.get(
    '/connections',
    {
      config: read,
      schema: {
        summary: 'List connections, newest first',
        querystring: listConnectionsQuery,
        response: { 200: pageOf(connectionSchema) },
      },
    },
    async (request) => {
      const { limit, cursor, toolkit } = request.query;
      const before = positionOf(cursor, /^conn_[0-9a-f-]{36}$/);
      const found = await connections.list(callerOf(request).tenantId, { limit: limit + 1, before, toolkit });
      return toPage(found, limit, ({ id }) => id, connectionBody);
    },
  );
  app.get(
    '/connections/:id',
    {
      config: read,
      schema: {
        summary: 'One connection, without its credentials',
        params: idParams,
        response: { 200: connectionSchema },
      },
    },
    async (request, reply) => answer(reply, await connections.get(callerOf(request).tenantId, request.params.id)),
  );
  app.patch(
    '/connections/:id',
    {
      config: write,
      schema: {
        summary: 'Change a connection; new credentials resume its triggers',
        params: idParams,
        body: patchConnectionBody,
        response: { 200: connectionSchema },
      },
    },
    async (request, reply) =>
      answer(reply, await connections.patch(actorOf(request), request.params.id, request.body, ifVersionOf(request))),
  );
  app.delete(
    '/connections/:id',
    {
      config: write,
      schema: { summary: 'Delete a connection that no trigger uses', params: idParams, response: { 204: z.null() } },
    },
    async (request, reply) => {
      await connections.remove(actorOf(request), request.params.id, ifVersionOf(request));
      return reply.code(204).send(null);
    },
  );
}
