/** What all people's routes share: ETag and If-Match, paging by cursor, common field types. */
import { idSchema } from '@milkrun/control-plane';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { Problem } from './problems.ts';

export const setVersion = (reply: FastifyReply, version: number): FastifyReply => reply.header('etag', `"${version}"`);

/** The version of If-Match; undefined without one or with `*`. */
export function ifVersionOf({ headers }: FastifyRequest): number | undefined {
  const given = headers['if-match']?.trim();
  if (given === undefined || given === '*') return undefined;
  const [, version] = /^(?:W\/)?"(\d{1,15})"$/.exec(given) ?? [];
  if (version === undefined) throw new Problem(400, 'If-Match must be an ETag of this API, such as "3".');
  return Number(version);
}

const LIMIT_MAX = 500;

/** Query of a list: `limit` and the `next` of the page before as `cursor`. */
export const pagingShape = {
  limit: z.coerce.number().int().min(1).max(LIMIT_MAX).default(50),
  cursor: z.string().max(256).optional(),
};

export const pageOf = <T extends z.ZodType>(item: T) => z.object({ items: z.array(item), next: z.string().nullable() });

const encode = (position: string): string => Buffer.from(position).toString('base64url');

/** A page and the cursor of the next one; `items` holds one more than `limit` when there is a next one. */
export function toPage<T, V>(
  items: readonly T[],
  limit: number,
  positionOf: (item: T) => string,
  viewOf: (item: T) => V,
) {
  const shown = items.slice(0, limit);
  const last = shown.at(-1);
  return {
    items: shown.map(viewOf),
    next: items.length > limit && last !== undefined ? encode(positionOf(last)) : null,
  };
}

/** The position in a cursor, checked against its form. Throws a `Problem` for anything else. */
export function positionOf(cursor: string | undefined, form: RegExp): string | undefined {
  if (cursor === undefined) return undefined;
  const position = Buffer.from(cursor, 'base64url').toString('utf8');
  if (!form.test(position))
    throw new Problem(400, 'cursor: not one of this list; take the value of next', [
      { path: 'cursor', message: 'not one of this list' },
    ]);
  return position;
}

export const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
export const uuidParams = z.strictObject({ id: z.guid().toLowerCase() });
export const idParams = z.strictObject({ id: idSchema });

/** Text for people: up to `max` characters, no control characters but line ends and tabs. */
export const humanText = (max: number) =>
  z
    .string()
    .max(max)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
    .refine((text) => text.isWellFormed() && !/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/.test(text), {
      error: 'control characters are not accepted',
    });

export const reasonShape = { reason: humanText(500).optional() };

/** The shape of every refusal, for the OpenAPI document. */
export const problemSchema = z
  .object({
    type: z.string(),
    title: z.string(),
    status: z.int(),
    detail: z.string(),
    errors: z.array(z.object({ path: z.string(), message: z.string() })).optional(),
  })
  .describe('problem+json (RFC 9457)');
