import { expect, test } from 'vitest';
import { drill } from '../kill.ts';

test('killed in the middle of polling, it loses nothing, repeats nothing and leaves no lease', {
  timeout: 240_000,
}, async () => {
  const said: string[] = [];
  const result = await drill.run({
    count: 1,
    seed: 1,
    log: (line) => void said.push(line),
    flags: { triggers: '100' },
  });
  expect(result, said.join('\n')).toMatchObject({ violations: 0, faults: 1, triggers: 100 });
  expect(result.tried).toBeGreaterThan(100);
  expect(result.leasedAtKill).toEqual([expect.any(Number)]);
});
