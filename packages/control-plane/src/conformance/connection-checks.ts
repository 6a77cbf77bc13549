/** Checks of `POST /conn/batch`. */
import { connectionAnswerSchema, connectionEnvelopeSchema, issueText } from '../schemas.ts';
import { type Check, expect, type KitTrigger } from './hooks.ts';
import type { Probe } from './probe.ts';

interface Ask {
  connectionId: string;
  tenantId: string;
  toolkit: string;
  triggerIds: string[];
}

const askOf = ({ connectionId, tenantId, toolkit, triggerId }: KitTrigger): Ask => ({
  connectionId,
  tenantId,
  toolkit,
  triggerIds: [triggerId],
});

/** Asks and answers the records by connection; refuses a double or an unusable one. */
async function fetchAuth(probe: Probe, connections: readonly object[]) {
  const answer = await probe.post('/conn/batch', { connections, futureField: 1 });
  expect(answer.status === 200, `status ${answer.status} instead of 200`);
  const envelope = connectionEnvelopeSchema.safeParse(answer.body);
  expect(envelope.success, 'the body is not { connections: [...] }');
  const byId = new Map<string, ReturnType<typeof connectionAnswerSchema.parse>>();
  for (const record of envelope.data.connections) {
    const parsed = connectionAnswerSchema.safeParse(record);
    expect(parsed.success, parsed.success ? '' : issueText(parsed.error));
    expect(!byId.has(parsed.data.connectionId), `connection ${parsed.data.connectionId} is answered twice`);
    byId.set(parsed.data.connectionId, parsed.data);
  }
  return byId;
}

export const CONNECTION_CHECKS: readonly Check[] = [
  {
    name: 'an unknown connection is answered not_found under its own id',
    needs: [],
    async run({ probe }) {
      const unknown = { connectionId: 'kit-no-such', tenantId: 'kit-no-such', toolkit: 'http-json', triggerIds: [] };
      const status = (await fetchAuth(probe, [unknown])).get('kit-no-such')?.status;
      expect(status === 'not_found', `status ${status}`);
    },
  },
  {
    name: 'an empty ask is answered with an empty list',
    needs: [],
    async run({ probe }) {
      expect((await fetchAuth(probe, [])).size === 0, 'something was answered');
    },
  },
  {
    name: 'each asked connection is answered once, under its id and tenant',
    needs: ['createTrigger'],
    async run({ probe, hooks }) {
      const triggers = await Promise.all([hooks.createTrigger(), hooks.createTrigger(), hooks.createTrigger()]);
      const answers = await fetchAuth(probe, triggers.map(askOf).reverse());
      for (const { connectionId, tenantId } of triggers) {
        const answer = answers.get(connectionId);
        expect(answer?.status === 'active', `connection ${connectionId}: ${answer?.status ?? 'no answer'}`);
        expect(answer.tenantId === tenantId, `connection ${connectionId} is answered for another tenant`);
      }
    },
  },
  {
    name: 'a connection is never given to another tenant',
    needs: ['createTrigger'],
    async run({ probe, trigger }) {
      const own = askOf(await trigger());
      const answer = (await fetchAuth(probe, [{ ...own, tenantId: 'kit-other-tenant' }])).get(own.connectionId);
      expect(answer?.status === 'not_found', `status ${answer?.status ?? 'no answer'}`);
    },
  },
  {
    name: 'a revoked connection is answered with its status and no auth',
    needs: ['createTrigger', 'revokeConnection'],
    async run({ probe, hooks }) {
      const ask = askOf(await hooks.createTrigger());
      await hooks.revokeConnection(ask.connectionId);
      const answer = (await fetchAuth(probe, [ask])).get(ask.connectionId);
      expect(answer !== undefined && answer.status !== 'active', `status ${answer?.status ?? 'no answer'}`);
      expect(!('auth' in answer), 'auth was sent along');
    },
  },
];
