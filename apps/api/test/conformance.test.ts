/** The reference control plane sits the exam that anybody's control plane may sit. */
import { runConformance } from '@milkrun/control-plane/conformance';
import { expect, it } from 'vitest';
import { ENGINE_KEY, startTestApi } from './api.ts';

it('passes every check of the kit, concurrent writers included', async () => {
  await using test = await startTestApi();
  const results = await runConformance({
    url: test.api.url,
    key: ENGINE_KEY,
    hooks: {
      async createTrigger() {
        const connectionId = await test.connect();
        const { id } = await test.createTrigger({ connectionId });
        return { triggerId: id, tenantId: 'default', toolkit: 'npm', connectionId };
      },
      async changeTrigger(triggerId) {
        await test.call('PATCH', `/triggers/${triggerId}`, { name: `renamed ${Math.random()}` });
      },
      async deleteTrigger(triggerId) {
        await test.call('DELETE', `/triggers/${triggerId}`);
      },
      async revokeConnection(connectionId) {
        await test.call('PATCH', `/connections/${connectionId}`, { status: 'revoked' });
      },
      async showTrigger(triggerId) {
        const { status } = (await test.call('GET', `/triggers/${triggerId}`)).body;
        return { on: status.state === 'active', code: status.code, since: status.since, by: status.by };
      },
      async storedEventIds(triggerId) {
        const { items } = (await test.call('GET', `/events?triggerId=${triggerId}&limit=500`)).body;
        return items.map(({ id }: { id: string }) => id);
      },
    },
  });
  expect(results.filter(({ outcome }) => outcome !== 'pass')).toEqual([]);
  expect(results.length).toBeGreaterThan(20);
});
