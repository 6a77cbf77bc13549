/** New orders of a shop: a listing that can be asked for what is newer than a time. */
import { defineConnector, PollError } from '@milkrun/connectors';
import { z } from 'zod';

/** A shop may show an order this much later than its time says. */
const OVERLAP_SECONDS = 300;

const orderSchema = z.object({ id: z.string(), placedAt: z.iso.datetime(), total: z.number() });
const answerSchema = z.object({ orders: z.array(orderSchema), more: z.boolean() });
const authSchema = z.object({ token: z.string().min(1) });
/** Where the next poll begins, and what is there from an earlier page. */
const cursorSchema = z.object({ from: z.iso.datetime(), after: z.string().optional() });

export const connector = defineConnector({
  toolkit: 'shop',
  slug: 'shop-orders',
  title: 'New orders of a shop',
  version: '1',
  configSchema: z.strictObject({
    url: z.url({ protocol: /^https?$/ }).describe('Address of the shop’s API'),
    shop: z.string().min(1).describe('Name of the shop'),
  }),
  eventSchema: orderSchema,
  dedupe: 'watermark',
  overlapSeconds: OVERLAP_SECONDS,
  defaultIntervalSeconds: 300,
  minimumIntervalSeconds: 60,
  repeatable: true,
  async poll({ config, auth, cursor, since, eventsMax, clock, http, signal }) {
    const token = authSchema.safeParse(auth);
    if (!token.success) throw new PollError('auth', 'the connection has no token');
    const { from, after } = cursorSchema.parse(
      cursor ?? { from: since ?? new Date(clock.now() - OVERLAP_SECONDS * 1000).toISOString() },
    );
    const query = new URLSearchParams({ placed_from: from, limit: String(eventsMax) });
    if (after !== undefined) query.set('after', after);
    const answer = await http.send({
      url: `${config.url}/shops/${encodeURIComponent(config.shop)}/orders?${query}`,
      headers: { authorization: `Bearer ${token.data.token}` },
      signal,
    });
    const { orders, more } = answerSchema.parse(answer.json());
    const last = orders.at(-1);
    return {
      events: orders.map((order) => ({ key: order.id, occurredAt: order.placedAt, data: order })),
      cursor: more && last !== undefined ? { from, after: last.id } : { from: nextFrom(from, last?.placedAt) },
      more,
    };
  },
});

/** The overlap behind the newest order, and never back. */
function nextFrom(from: string, newest: string | undefined): string {
  if (newest === undefined) return from;
  const behind = new Date(Date.parse(newest) - OVERLAP_SECONDS * 1000).toISOString();
  return behind > from ? behind : from;
}
