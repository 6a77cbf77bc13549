/** A small ring of inputs, or a bare loop would be charged for garbage that the engine does not make. */
export function benchBodies(count: number): string[] {
  return Array.from({ length: count }, (_, n) =>
    JSON.stringify({
      trigger: {
        id: `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`,
        slug: 'bench',
        version: '1',
        config: { padding: 'x'.repeat(200) },
      },
      auth: { token: 'bench' },
      cursor: { after: '2026-01-01T00:00:00Z', page: 'x'.repeat(280) },
      limits: { deadlineMs: 30_000, eventsMax: 500 },
    }),
  );
}
