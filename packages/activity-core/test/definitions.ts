/** Definitions for tests: the smallest one, and the weekly SBOM fan-out. */
import type { DefinitionInput } from '../src/index.ts';

export const minimal = (over: Record<string, unknown> = {}): DefinitionInput =>
  ({ slug: 'minimal', rules: [{ id: 'always', task: { type: 'noop' } }], ...over }) as DefinitionInput;

export const cronOf = (cron: string, over: Record<string, unknown> = {}): DefinitionInput =>
  minimal({ on: [{ cron, ...over }] });

export const weeklySbom: DefinitionInput = {
  slug: 'weekly-sbom',
  on: [
    { cron: '0 9 * * 1', timezone: 'Europe/Berlin', misfire: { policy: 'compress', window: '7d' } },
    { event: { type: 'com.example.repo.registered', where: 'event.data.visibility != "archived"' } },
  ],
  context: { repos: { http: { url: 'https://hub.example/repos', query: { fields: 'sbom' } }, timeout: '10s' } },
  rules: [
    {
      id: 'stale',
      for_each: 'context.repos',
      key: 'item.slug',
      when: 'item.sbomAgeDays > 30',
      limit: 500,
      task: {
        type: 'http',
        title: 'Rescan SBOM of ${item.slug}',
        params: { url: 'https://scan.example/jobs', json: { repo: '${item.slug}', age: '${item.sbomAgeDays}' } },
        labels: ['sbom', '${item.slug}'],
        unique: { key: 'sbom/${item.slug}', while: 'open' },
      },
    },
  ],
  concurrency: { key: 'activity.id', limit: 1, when_busy: 'queue' },
};

export const rootsOf = (context: Record<string, unknown>, event: Record<string, unknown> = { data: {} }) => ({
  event,
  context,
  run: { id: 'run-1', now: '2026-03-02T08:00:00Z' },
  activity: { id: 'activity-1', slug: 'weekly-sbom', version: 1 },
});
