import { beforeAll, expect, it, vi } from 'vitest';

let router: typeof import('../src/router.ts');

beforeAll(async () => {
  vi.stubGlobal('location', { hash: '' });
  router = await import('../src/router.ts');
});

it.each([
  ['', [], {}],
  ['#/', [], {}],
  ['#/triggers?state=halted&search=a%26b', ['triggers'], { state: 'halted', search: 'a&b' }],
  ['#/runs/a%2Fb', ['runs', 'a/b'], {}],
  ['#/%zz', ['%zz'], {}],
])('reads %s', (hash, parts, query) => {
  expect(router.placeOf(hash)).toEqual({ parts, query });
});

it('is where the address says once the key is taken out of it', () => {
  vi.stubGlobal('addEventListener', () => undefined);
  router.place.value = router.placeOf('#key=mk_x');
  router.watchAddress();
  expect(router.place.value).toEqual({ parts: [], query: {} });
});

it('makes addresses that it reads again', () => {
  const parts = ['triggers', 'a/b?c#d'];
  const query = { search: '<b> & "c"', state: undefined };
  expect(router.placeOf(router.hrefOf(parts, query))).toEqual({ parts, query: { search: '<b> & "c"' } });
});
