/** Checks of who is let in, and of what is refused at the door. */
import { type Check, expect } from './hooks.ts';

const ENDPOINTS = [
  ['GET', '/triggers/changes?limit=1&wait=0'],
  ['POST', '/conn/batch'],
  ['POST', '/state'],
] as const;

export const ACCESS_CHECKS: readonly Check[] = [
  ...['', 'wrong-key'].map(
    (key): Check => ({
      name: key === '' ? 'no key is answered 401' : 'a wrong key is answered 401 or 403',
      needs: [],
      async run({ probe }) {
        for (const [method, path] of ENDPOINTS) {
          const { status } = method === 'GET' ? await probe.get(path, key) : await probe.post(path, {}, {}, key);
          expect(status === 401 || (key !== '' && status === 403), `${method} ${path}: status ${status}`);
        }
      },
    }),
  ),
  {
    name: 'bodies that are no JSON or the wrong shape are refused as the sender’s fault, never as an outage',
    needs: [],
    async run({ probe }) {
      for (const path of ['/conn/batch', '/state']) {
        for (const body of ['{"connections":[', '[]', '{"connections":7,"results":7}', '{"__proto__":{"a":1}}']) {
          const { status } = await probe.post(path, body);
          expect(status >= 400 && status < 500 && status !== 410, `POST ${path} ${body}: status ${status}`);
        }
      }
    },
  },
];
