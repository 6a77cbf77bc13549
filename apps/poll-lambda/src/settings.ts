/** What connectors may know of the environment: these names and no other, so no secret of the process reaches them. */
import type { Settings } from '@milkrun/connectors';

/** npm runs scripts with its own registry in `npm_config_registry`. */
export function settingsFrom(env: Readonly<Record<string, string | undefined>>): Settings {
  const registry = env.NPM_REGISTRY || env.npm_config_registry;
  return {
    ...(registry ? { NPM_REGISTRY: registry } : {}),
    ...(env.OUTBOUND_ALLOW ? { OUTBOUND_ALLOW: env.OUTBOUND_ALLOW } : {}),
  };
}
