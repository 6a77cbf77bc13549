export { createLegacyActivities, type LegacyActivities, type LegacyDeps } from './activities.ts';
export { nudgeLegacy, wakeLegacy } from './starter.ts';
