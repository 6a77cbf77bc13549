/** Definitions: what is accepted, and that every refusal names the field and what would have been accepted. */
import { expect, it } from 'vitest';
import { cronEntryOf, JSON_SCHEMAS, misfirePolicyOf, parseDefinition, Refused } from '../src/index.ts';
import { cronOf, minimal, weeklySbom } from './definitions.ts';

function problemsOf(input: unknown): string[] {
  try {
    parseDefinition(input);
  } catch (error) {
    if (error instanceof Refused) return error.problems.map(({ path, message }) => `${path}: ${message}`);
    throw error;
  }
  return [];
}

it('A01: a definition keeps what it says and gets defaults for what it does not say', () => {
  const definition = parseDefinition(weeklySbom);
  expect(definition).toMatchObject({
    slug: 'weekly-sbom',
    enabled: true,
    on: [{ cron: '0 9 * * 1', timezone: 'Europe/Berlin', dst: { gap: 'skip' } }, { event: {} }],
    context: { repos: { timeout: '10s', optional: false } },
    rules: [{ id: 'stale', on_limit: 'fail', task: { attempts: 5, timeout: '5m' } }],
    breaker: { failures: 0 },
  });
  expect(parseDefinition(definition)).toEqual(definition);
});

it.each([
  ['', { ...minimal(), enable: true }, 'enable: unknown field; did you mean enabled?'],
  [
    '',
    minimal({ rules: [{ id: 'a', whn: 'true', task: { type: 'noop' } }] }),
    'rules[0].whn: unknown field; did you mean when?',
  ],
  [
    '',
    minimal({ rules: [{ id: 'a', task: { type: 'noop', titel: 'x' } }] }),
    'rules[0].task.titel: unknown field; did you mean title?',
  ],
  [
    '',
    minimal({ rules: [{ id: 'a', task: { type: 'http', params: { url: 'https://a.example/', jsn: 1 } } }] }),
    'rules[0].task.params.jsn: unknown field; did you mean json?',
  ],
  ['', cronOf('0 9 * * 1', { timezon: 'UTC' }), 'on[0].timezon: unknown field; did you mean timezone?'],
  ['', minimal({ context: { repos: { htp: {} } } }), 'context.repos.htp: unknown field; did you mean http?'],
])('A01: an unknown field is refused with its path and the nearest one%s (%#)', (_, input, expected) => {
  expect(problemsOf(input)).toContain(expected);
});

it.each([
  [cronOf('0 9 * *'), 'on[0].cron: "0 9 * *" has 4 fields; accepted: five, such as "0 9 * * 1"'],
  [cronOf('61 9 * * 1'), 'on[0].cron: minute 61 is outside 0–59; nearest accepted: 59'],
  [cronOf('0 25 * * 1'), 'on[0].cron: hour 25 is outside 0–23; nearest accepted: 23'],
  [cronOf('@daily'), 'on[0].cron: "@daily" is not accepted; the same is "0 0 * * *"'],
  [
    cronOf('0 9 1 * 1'),
    'on[0].cron: "0 9 1 * 1" sets day of month and day of week; set one, or say dom_dow: and, when both have to hold',
  ],
  [cronOf('0 0 30 2 *'), 'on[0].cron: "0 0 30 2 *" names no date that exists'],
  [
    cronOf('0 9 * * 1', { timezone: 'Europe/Berln' }),
    'on[0].timezone: "Europe/Berln" is no time zone; did you mean Europe/Berlin?',
  ],
  [
    cronOf('0 9 * * 1', { timezone: '+02:00' }),
    'on[0].timezone: "+02:00" is an offset; accepted: a name such as Europe/Berlin',
  ],
  [
    cronOf('0 9 * * 1', { misfire: { policy: 'compres' } }),
    'on[0].misfire.policy: "compres" is not accepted; did you mean compress?',
  ],
  [
    cronOf('0 9 * * 1', { misfire: { window: '1s' } }),
    'on[0].misfire.window: 1s is less than 10s; nearest accepted: 10s',
  ],
  [minimal({ on: [{ event: {} }] }), 'on[0].event.type: Invalid input: expected string, received undefined'],
  [
    minimal({ on: [{ event: { type: 'Repo Pushed' } }] }),
    'on[0].event.type: accepted: lower-case parts joined by dots, such as com.example.repo.registered',
  ],
  [minimal({ on: [{ crn: '* * * * *' }] }), 'on[0]: accepted: an object with one of cron, at, event'],
  [minimal({ on: [{ at: 'tomorrow' }] }), 'on[0].at: is no instant; accepted: RFC 3339, such as 2027-01-31T09:00:00Z'],
  [
    minimal({ on: [{ cron: '0 9 * * *' }, { at: '2027-01-01T00:00:00Z' }] }),
    'on: 2 entries of cron and at; accepted: at most one',
  ],
])('A02: what starts an activity is checked by its kind (%#)', (input, expected) => {
  expect(problemsOf(input)).toContain(expected);
});

it('A02: without a zone a cron entry is in UTC, and day of month with day of week is allowed where it is said', () => {
  expect(cronEntryOf(parseDefinition(cronOf('0 9 * * 1')))?.timezone).toBe('UTC');
  expect(problemsOf(cronOf('0 9 1-7 * 1', { dom_dow: 'and' }))).toEqual([]);
});

it('A04: JSON Schemas of definition and event are made from the types', () => {
  expect(JSON_SCHEMAS['activity-definition']).toMatchObject({
    title: 'Activity definition',
    required: ['slug', 'rules'],
    additionalProperties: false,
    properties: { rules: { minItems: 1 }, on: { maxItems: 20 } },
  });
  expect(JSON_SCHEMAS['cloud-event']).toMatchObject({ required: ['specversion', 'id', 'source', 'type'] });
});

it('A59: an unknown task type is refused when the definition is saved, with the nearest', () => {
  expect(problemsOf(minimal({ rules: [{ id: 'a', task: { type: 'htp' } }] }))).toEqual([
    'rules[0].task.type: "htp" is not accepted; did you mean http?',
  ]);
  expect(problemsOf(minimal({ rules: [{ id: 'a', task: { type: 'shell' } }] }))).toEqual([
    'rules[0].task.type: "shell" is not accepted; accepted: http, event, workflow, human, noop',
  ]);
});

it.each([
  [{ when: 'evnt.data.a == 1' }, 'rules[0].when: "evnt" is not known here; did you mean event?'],
  [{ when: 'item.a == 1' }, 'rules[0].when: "item" is not known here; accepted: event, context, run, activity'],
  [
    { when: 'size(event.data)' },
    'rules[0].when: the condition gives int; accepted: an expression that gives true or false',
  ],
  [
    { when: 'event.subject.matches("^(a+)+$")' },
    'rules[0].when: matches() may not be called (a pattern may take for ever): use contains, startsWith or endsWith',
  ],
  [{ for_each: 'item.list' }, 'rules[0].for_each: "item" is not known here; accepted: event, context'],
  [{ key: 'item.id' }, 'rules[0].key: needs for_each'],
])('A60: a rule is compiled when it is saved (%#)', (over, expected) => {
  expect(problemsOf(minimal({ rules: [{ id: 'a', task: { type: 'noop' }, ...over }] }))).toContain(expected);
});

it.each([
  [
    { title: '${item.x}' },
    'rules[0].task.title: ${item.x}: "item" is not known here; accepted: event, context, run, activity',
  ],
  [{ title: '${event.data.__proto__}' }, 'rules[0].task.title: "__proto__" may not be read'],
  [{ title: '${event.data.constructor}' }, 'rules[0].task.title: "constructor" may not be read'],
  [{ title: '${event.data.name' }, 'rules[0].task.title: "${" is not closed; write $${ for a literal ${'],
  [{ title: '${f(x)}' }, 'rules[0].task.title: "f(x)" is no path: after "f" comes "(x)"'],
  [
    { type: 'http', params: { url: 'https://${event.data.host}/x' } },
    'rules[0].task.params.url: has to begin with http:// or https:// and a host that is written out, such as https://api.example.com/',
  ],
  [
    { type: 'http', params: { url: 'https://api.example.com${event.data.x}' } },
    'rules[0].task.params.url: has to begin with http:// or https:// and a host that is written out, such as https://api.example.com/',
  ],
  [
    { type: 'http', params: { url: 'https://user:pass@api.example.com/' } },
    'rules[0].task.params.url: must not hold credentials',
  ],
  [
    { type: 'workflow', params: { workflow: 'Do', queue: '${event.data.q}' } },
    'rules[0].task.params.queue: may not come from data',
  ],
])('A64: templates are read when they are saved; data never chooses whom to call (%#)', (over, expected) => {
  expect(problemsOf(minimal({ rules: [{ id: 'a', task: { type: 'noop', ...over } }] }))).toContain(expected);
});

it('A01: the older shape of a definition is accepted, and refused by its own field names', () => {
  const seed = {
    name: 'Weekly SBOM',
    enabled: true,
    trigger_type: 'cron',
    trigger_config: { cron_expression: '0 9 * * 1', timezone: 'Europe/Berlin', misfire_policy: 'catchup_latest' },
    context_sources: [{ name: 'repos', http: { url: 'https://hub.example/repos' } }],
    task_templates: [{ type: 'noop', title: 'go' }],
    dedupe_key_strategy: 'scheduled',
  };
  const definition = parseDefinition(seed);
  expect(definition).toMatchObject({
    slug: 'weekly-sbom',
    name: 'Weekly SBOM',
    on: [{ cron: '0 9 * * 1', timezone: 'Europe/Berlin' }],
    context: { repos: { http: { url: 'https://hub.example/repos' } } },
    rules: [{ id: 'template_0', task: { type: 'noop', title: 'go' } }],
    dedupe: { strategy: 'scheduled' },
  });
  const entry = cronEntryOf(definition);
  expect(entry && misfirePolicyOf(entry).policy).toBe('compress');
  expect(problemsOf({ ...seed, trigger_config: { cron: '0 9 * * 1', misfire_policy: 'skp' } })).toEqual([
    'trigger_config.misfire_policy: "skp" is not accepted; did you mean skip?',
  ]);
  expect(
    parseDefinition({
      ...seed,
      trigger_type: 'event',
      trigger_config: { event_type: 'a.b', filters: { x: 1 } },
      dedupe_key_strategy: 'event',
    }).on,
  ).toEqual([{ event: { type: 'a.b', filters: { x: 1 } } }]);
});
