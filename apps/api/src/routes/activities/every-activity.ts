/** All activities of a tenant, page by page. */
import type { ActivityView, Registry } from '@milkrun/registrydb';

const PAGE = 500;

export async function everyActivity(activities: Registry['activities'], tenantId: string): Promise<ActivityView[]> {
  const all: ActivityView[] = [];
  for (;;) {
    const page = await activities.list(tenantId, { limit: PAGE, after: all.at(-1)?.id });
    all.push(...page);
    if (page.length < PAGE) return all;
  }
}
