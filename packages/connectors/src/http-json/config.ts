/** http-json's configuration: one listing of a JSON API, declared. */
import { z } from 'zod';
import { type Path, parsePath } from './path.ts';

const path = z
  .string()
  .max(500)
  .transform((text, context): Path => {
    const parsed = parsePath(text);
    if (parsed === undefined)
      context.issues.push({ code: 'custom', message: 'not a path such as data.items[0]', input: text });
    return parsed ?? [];
  })
  .describe('Path such as data.items or $.data["the items"][0]');

const headerName = z
  .string()
  .max(100)
  .regex(/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/, 'not a header name');
const headerValue = z
  .string()
  .max(4_096)
  .regex(/^[\t\x20-\x7e\x80-\xff]*$/, 'not a header value');
const param = z.string().min(1).max(200);

/** Headers that belong to the connection, not to the user. */
const RESERVED = /^(host|connection|content-length|transfer-encoding|upgrade|te|trailer|keep-alive|expect|proxy-.*)$/i;

const paging = z
  .discriminatedUnion('type', [
    z.strictObject({ type: z.literal('none') }),
    z
      .strictObject({ type: z.literal('page'), param, start: z.int().min(0).max(1).default(1) })
      .describe('Page numbers, up to the first page without items'),
    z
      .strictObject({ type: z.literal('token'), param, path })
      .describe('A token in the answer, sent back as a parameter'),
    z.strictObject({ type: z.literal('next'), path }).describe('The next page’s URL in the answer'),
    z.strictObject({ type: z.literal('link') }).describe('Link: <…>; rel="next"'),
  ])
  .default({ type: 'none' });

const watermark = z
  .strictObject({
    path: path.describe('Path in the item to its time or rising number'),
    param: param.describe('Query parameter that takes the greatest value seen'),
    format: z.enum(['rfc3339', 'unix', 'unix_ms', 'number', 'text']).default('rfc3339'),
    overlapSeconds: z.int().min(0).max(86_400).default(300).describe('Taken off a time before it is sent'),
  })
  .describe('For APIs that list what is newer than a value');

const auth = z
  .discriminatedUnion('type', [
    z.strictObject({ type: z.literal('none') }),
    z.strictObject({ type: z.literal('bearer') }),
    z.strictObject({ type: z.literal('basic') }),
    z.strictObject({ type: z.literal('header'), name: headerName }),
  ])
  .default({ type: 'none' });

export const configSchema = z.strictObject({
  url: z.url({ protocol: /^https?$/ }).max(4_096),
  method: z.enum(['GET', 'POST']).default('GET'),
  headers: z
    .record(headerName, headerValue)
    .refine(
      (headers) => !Object.keys(headers).some((name) => RESERVED.test(name)),
      'holds a header that may not be set',
    )
    .default({}),
  body: z.json().optional().describe('Sent as JSON with POST'),
  items: path.default([]).describe('Path to the list in the answer; default: the answer itself'),
  key: path.optional().describe('Path in the item to its identity; default: the whole item'),
  occurredAt: path.optional().describe('Path in the item to its time: RFC 3339, or seconds or milliseconds since 1970'),
  paging,
  watermark: watermark.optional(),
  auth,
});

export type HttpJsonConfig = z.output<typeof configSchema>;
