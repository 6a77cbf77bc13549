/** The older shape of a definition (`trigger_type`, `trigger_config`, …), accepted and converted. */

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

export function isSeedDefinition(value: unknown): value is Record<string, unknown> {
  return isRecord(value) && ('trigger_type' in value || 'task_templates' in value);
}

/** Converts; what can not be understood is kept as it is, for the schema to refuse by name. */
export function fromSeedDefinition(seed: Record<string, unknown>): Record<string, unknown> {
  const {
    trigger_type: type,
    trigger_config: config,
    context_sources,
    task_templates,
    dedupe_key_strategy,
    ...rest
  } = seed;
  const { id: _, version: __, ...kept } = rest;
  const slug = kept.slug ?? (typeof kept.name === 'string' ? slugOf(kept.name) : undefined);
  return {
    ...kept,
    slug,
    ...(type === undefined || type === 'manual' ? {} : { on: [entryOf(type, isRecord(config) ? config : {})] }),
    ...(context_sources === undefined ? {} : { context: contextOf(context_sources) }),
    rules: Array.isArray(task_templates) ? task_templates.map(ruleOf) : task_templates,
    ...(dedupe_key_strategy === undefined ? {} : { dedupe: { strategy: dedupe_key_strategy } }),
  };
}

/** Where the field of the converted definition stands in the older one. */
export function seedPath(path: string): string {
  return path
    .replace(/^on\[0\]\.event\.type/, 'trigger_config.event_type')
    .replace(/^on\[0\]\.event/, 'trigger_config')
    .replace(/^on\[0\]\.misfire\.policy/, 'trigger_config.misfire_policy')
    .replace(/^on\[0\]\.misfire/, 'trigger_config')
    .replace(/^on\[0\]$/, 'trigger_type')
    .replace(/^on\[0\]/, 'trigger_config')
    .replace(/^context(?=\W|$)/, 'context_sources')
    .replace(/^rules(?=\W|$)/, 'task_templates')
    .replace(/^dedupe\.strategy/, 'dedupe_key_strategy');
}

function entryOf(type: unknown, config: Record<string, unknown>): Record<string, unknown> {
  if (type === 'event') {
    const { event_type, ...rest } = config;
    return { event: { type: event_type, ...rest } };
  }
  const { cron_expression, misfire_policy, jitter_seconds, catchup_window_seconds, ...rest } = config;
  const window = typeof catchup_window_seconds === 'number' ? { window: `${catchup_window_seconds}s` } : {};
  const policy = misfire_policy === undefined ? {} : { policy: misfire_policy };
  const hasMisfire = misfire_policy !== undefined || typeof catchup_window_seconds === 'number';
  return {
    ...(type === 'cron' || type === 'at' ? {} : { [String(type)]: true }),
    ...(cron_expression === undefined ? {} : { cron: cron_expression }),
    ...(typeof jitter_seconds === 'number' && jitter_seconds > 0 ? { jitter: `${jitter_seconds}s` } : {}),
    ...(hasMisfire ? { misfire: { ...policy, ...window } } : {}),
    ...rest,
  };
}

function contextOf(sources: unknown): unknown {
  if (!Array.isArray(sources)) return sources;
  return Object.fromEntries(
    sources.map((source: unknown, n) => {
      const { name, ...rest } = isRecord(source) ? source : { name: undefined, value: source };
      return [typeof name === 'string' ? name : `source_${n}`, rest];
    }),
  );
}

/** A template that is a task and no rule stands alone: always, once. */
function ruleOf(template: unknown, n: number): unknown {
  if (!isRecord(template) || 'task' in template || 'tasks' in template) return template;
  const { id, when, condition, for_each, ...task } = template;
  return {
    id: id ?? `template_${n}`,
    ...(for_each === undefined ? {} : { for_each }),
    ...(when === undefined && condition === undefined ? {} : { when: when ?? condition }),
    task,
  };
}

function slugOf(name: string): string {
  const slug = name
    .normalize('NFKD')
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-');
  return slug.replace(/^-+|-+$/g, '').slice(0, 63);
}
