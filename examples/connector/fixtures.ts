/** A stand-in for the shop, for `milkrun connector test`: put your provider's answers here, or a sandbox account. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { ConnectorFixtures } from '@milkrun/connectors';

const ORDERS = [1, 2, 3].map((n) => ({ id: `order-${n}`, placedAt: `2026-01-0${n}T08:00:00.000Z`, total: n * 10 }));

/** Called once before the checks; `close` once after them. */
export async function fixtures(): Promise<ConnectorFixtures & { close(): void }> {
  const shop = createServer((request, response) => {
    const { searchParams } = new URL(request.url ?? '/', 'http://shop');
    if (request.headers.authorization !== 'Bearer of-the-shop') return response.writeHead(401).end();
    const [from, after] = [searchParams.get('placed_from') ?? '', searchParams.get('after') ?? ''];
    const rest = ORDERS.filter(({ id, placedAt }) => placedAt >= from && id > after);
    const orders = rest.slice(0, Number(searchParams.get('limit')));
    return response.end(JSON.stringify({ orders, more: orders.length < rest.length }));
  }).listen(0, '127.0.0.1');
  await new Promise((resolve) => shop.once('listening', resolve));
  return {
    config: { url: `http://127.0.0.1:${(shop.address() as AddressInfo).port}`, shop: 'north' },
    invalidConfigs: [{ shop: 'north' }, { url: 'ftp://shop', shop: 'north' }],
    auth: { token: 'of-the-shop' },
    since: '2026-01-01T00:00:00Z',
    // Private addresses are refused unless they are named.
    settings: { OUTBOUND_ALLOW: '127.0.0.1' },
    close: () => void shop.close().closeAllConnections(),
  };
}
