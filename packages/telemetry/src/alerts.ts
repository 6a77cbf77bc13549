/**
 * The alerts, with their runbook. Rules for Prometheus (`infra/prometheus/alerts.yml`) and the page an engineer is sent to
 * (`docs/alerts.md`) are rendered from here.
 */
import { gauge, increase, quantile, rate, series } from './promql.ts';

export interface Alert {
  readonly name: string;
  /** `page` wakes somebody, `ticket` waits for the morning. */
  readonly severity: 'page' | 'ticket';
  readonly expr: string;
  /** How long it must hold. */
  readonly for: string;
  readonly summary: string;
  readonly meaning: string;
  readonly impact: string;
  readonly diagnosis: readonly string[];
  readonly mitigation: readonly string[];
  /** Series, in promtool's notation, that make it fire within the hour; the labels it then carries beside the severity. */
  readonly fires: {
    readonly series: Readonly<Record<string, string>>;
    readonly labels?: Readonly<Record<string, string>>;
  };
}

/** promtool's notation, a sample a minute for an hour: a value that stays, and a counter that rises by a step. */
const stays = (value: number): string => `${value}x60`;
const rises = (by: number): string => `0+${by}x60`;

export const ALERTS: readonly Alert[] = [
  {
    name: 'MilkrunPollsLate',
    severity: 'page',
    expr: `${quantile(0.99, 'polling.claim.due_lag', '5m')} > 60`,
    for: '10m',
    summary: 'One poll in a hundred begins more than a minute late.',
    meaning: 'Claims take rows long after their due time: the fleet asks for more polls than are being made.',
    impact: 'Users hear of new things late. Nothing is lost: each poll reads on from its cursor.',
    diagnosis: [
      '`milkrun doctor` names triggers that are overdue and why.',
      '`milkrun shards` shows a shard that backs off, and until when; `milkrun batches` where batches wait.',
      'Compare `polling.poll.width_in_use` with `polling.poll.width`: equal means that width is the limit.',
    ],
    mitigation: [
      'Width is the limit: start another worker, or raise `POLL_WIDTH` and the concurrency of the poll function.',
      'A shard backs off: mend the dependency it names; it goes on by itself.',
      'The tick takes as long as `DISPATCH_TICK`: raise `TIMER_SHARDS`.',
    ],
    fires: {
      series: {
        [series('polling.claim.due_lag', {}, '_bucket{le="60"}')]: stays(0),
        [series('polling.claim.due_lag', {}, '_bucket{le="120"}')]: rises(10),
        [series('polling.claim.due_lag', {}, '_bucket{le="+Inf"}')]: rises(10),
      },
    },
  },
  {
    name: 'MilkrunTriggersNotPolled',
    severity: 'page',
    expr: `${gauge('max', 'polling.liveness.violations')} > 0`,
    for: '3m',
    summary: 'Enabled triggers break the liveness invariant.',
    meaning:
      'A trigger that should be polled has no due time, one too far ahead, or is overdue without a batch or a recorded hold.',
    impact: 'Its user is told nothing new until it is repaired. The loop repairs most kinds within two minutes.',
    diagnosis: [
      '`milkrun doctor` lists each trigger with its kind and what was done.',
      '`milkrun triggers explain ID` tells what happened to one of them, poll by poll.',
    ],
    mitigation: [
      '`overdue`: see MilkrunPollsLate; a shard that does not tick is started again by the liveness loop of any worker.',
      '`no_next_poll` or `too_far_ahead`: `milkrun triggers poll-now ID` gives it a due time; report it with the explain output.',
    ],
    fires: { series: { [series('polling.liveness.violations', { kind: 'overdue' })]: stays(2) } },
  },
  {
    name: 'MilkrunNothingPolled',
    severity: 'page',
    expr: `${gauge('max', 'polling.triggers.polled')} > 0 unless (${rate('polling.poll.polls', {}, '15m')} > 0)`,
    for: '15m',
    summary: 'There are triggers, and nothing has been polled for a quarter of an hour.',
    meaning: 'No worker finishes a poll. (With intervals longer than this window, raise the window.)',
    impact: 'Nobody hears of anything new.',
    diagnosis: [
      'Is a worker running and ready? `/readyz` on `ENGINE_PORT` says what it waits for.',
      '`milkrun shards` and the log line `worker.restarting` tell whether Temporal refuses the worker.',
    ],
    mitigation: ['Start a worker, or mend what `/readyz` names: PostgreSQL, Temporal, the object store.'],
    fires: {
      series: {
        [series('polling.triggers.polled')]: stays(5),
        [series('polling.poll.polls', { code: 'ok' })]: stays(100),
      },
    },
  },
  {
    name: 'MilkrunDependencyDown',
    severity: 'page',
    expr: `${gauge('max', 'polling.breaker.open', ['dependency'])} > 0`,
    for: '5m',
    summary: 'A dependency fails, and workers have stopped calling it.',
    meaning: 'The breaker of the named dependency is open: calls failed repeatedly, one probe a minute is made.',
    impact:
      'While the object store or the control plane is away nothing is dispatched. Triggers are not slowed or halted for it.',
    diagnosis: ['The log line `breaker.opened` names the dependency and its last error.'],
    mitigation: ['Mend the dependency. Dispatch goes on at the next good probe, oldest due first.'],
    fires: {
      series: { [series('polling.breaker.open', { dependency: 'object_store' })]: stays(1) },
      labels: { dependency: 'object_store' },
    },
  },
  {
    name: 'MilkrunReceiverRefuses',
    severity: 'page',
    expr: `${increase('polling.broadcast.chunks', '15m', { outcome: 'misconfigured' })} > 0`,
    for: '5m',
    summary: 'The control plane refuses the engine itself.',
    meaning: '`/state` answers 401, 403 or 404: key or address are wrong.',
    impact: 'Events are parked and read again later; sources that can not be read twice have theirs put aside.',
    diagnosis: ['Compare `CONTROL_PLANE_URL` and `CONTROL_PLANE_KEY` of the workers with the control plane’s.'],
    mitigation: ['Correct the setting and restart the workers, one by one: they hand their batches over.'],
    fires: { series: { [series('polling.broadcast.chunks', { outcome: 'misconfigured' })]: rises(1) } },
  },
  {
    name: 'MilkrunBrakeOn',
    severity: 'page',
    expr: `${gauge('max', 'polling.broadcast.brake')} > 0`,
    for: '1m',
    summary: 'Receivers say “gone” for too many triggers at once: none is halted until somebody looks.',
    meaning:
      'More triggers would have been halted within an hour than the brake allows. A routing mistake looks like this.',
    impact: 'Events of those triggers wait. Triggers halted before the brake stay halted until restored.',
    diagnosis: ['Look at what `/state` answers 410 to, and since when: a deploy of the receiver, a lost tenant.'],
    mitigation: [
      'A mistake: mend the receiver, then restore what was halted with the bulk verb (docs/operations.md).',
      'Really gone: it lifts by itself when the trailing hour falls below the limit.',
    ],
    fires: { series: { [series('polling.broadcast.brake')]: stays(1) } },
  },
  {
    name: 'MilkrunForeignCredentials',
    severity: 'page',
    expr: `${increase('polling.auth.foreign_answers', '1h')} > 0`,
    for: '0m',
    summary: 'The control plane answered with a connection of another tenant.',
    meaning: 'An answer of `/conn/batch` carried a tenant that did not ask. It was not used.',
    impact: 'The triggers concerned got no credentials. The fault that mixes tenants up may show elsewhere.',
    diagnosis: ['The log line of the step names connection ids, never credentials.'],
    mitigation: ['Treat it as an incident of the control plane.'],
    fires: { series: { [series('polling.auth.foreign_answers')]: rises(1) } },
  },
  {
    name: 'MilkrunMassDelete',
    severity: 'page',
    expr: `${increase('polling.feed.mass_delete', '1h')} > 0`,
    for: '0m',
    summary: 'A resync of the feed would delete too many triggers and was refused.',
    meaning: 'The feed, read from its start, lacks more triggers than max(50, 5 %).',
    impact: 'Nothing was deleted. Triggers that are really gone are still polled.',
    diagnosis: ['`milkrun doctor` tells how many. Is the feed whole?'],
    mitigation: ['A feed that lacks records: mend it. Meant so: confirm it (docs/operations.md).'],
    fires: { series: { [series('polling.feed.mass_delete')]: rises(1) } },
  },
  {
    name: 'MilkrunEventsRefused',
    severity: 'ticket',
    expr: `${increase('polling.broadcast.dead_letters', '1h')} > 0`,
    for: '5m',
    summary: 'Receivers refused events for good.',
    meaning: 'Single events were answered with `rejected`, or are too large for the receiver.',
    impact: 'Those events lie in dead letters with their bytes; everything after them is delivered.',
    diagnosis: ['List the dead letters of the trigger: each names the reason.'],
    mitigation: ['Mend the receiver or the connector, then send them again.'],
    fires: { series: { [series('polling.broadcast.dead_letters', { reason: 'refused' })]: rises(1) } },
  },
  {
    name: 'MilkrunHaltsRising',
    severity: 'ticket',
    expr: `${increase('polling.commit.halts', '1h')} > 20`,
    for: '5m',
    summary: 'Many triggers were halted within an hour.',
    meaning: 'Credentials ran out, sources answer for ever wrong, or receivers are gone.',
    impact: 'Their users see why in the trigger; nobody polls for them until that is mended.',
    diagnosis: ['`polling.commit.halts` by `code` tells which kind; docs/state-machine.md what each means.'],
    mitigation: ['One toolkit’s credentials: its provider revoked something. Many codes: look for a deploy.'],
    fires: { series: { [series('polling.commit.halts', { code: 'auth.expired' })]: rises(1) } },
  },
  {
    name: 'MilkrunTriggersStale',
    severity: 'ticket',
    expr: `${gauge('max', 'polling.liveness.stale')} > 0`,
    for: '30m',
    summary: 'Triggers have had no good poll for three intervals.',
    meaning: 'They are polled, and every poll fails.',
    impact: 'Their users are told nothing new.',
    diagnosis: ['`milkrun doctor` lists them with their last code.'],
    mitigation: ['Go by the code: docs/state-machine.md says for each whose fault it is and what ends it.'],
    fires: { series: { [series('polling.liveness.stale')]: stays(3) } },
  },
  {
    name: 'MilkrunTriggersSilent',
    severity: 'ticket',
    expr: `${gauge('max', 'polling.liveness.silent')} > 10`,
    for: '30m',
    summary: 'Triggers that used to find something have found nothing for many of their usual gaps.',
    meaning: 'Their polls succeed and come to nothing: perhaps nothing happened, perhaps the source changed.',
    impact: 'If it is the source, their users miss what happens and see no error.',
    diagnosis: ['`milkrun doctor` lists them with their usual gap. Many of one toolkit at once: its connector.'],
    mitigation: ['Mend the connector, then `milkrun triggers rewind ID --since` finds what was missed.'],
    fires: { series: { [series('polling.liveness.silent')]: stays(11) } },
  },
  {
    name: 'MilkrunPollFunctionThrottled',
    severity: 'ticket',
    expr: `${rate('polling.poll.throttles', {}, '10m')} > 1`,
    for: '15m',
    summary: 'The poll function’s platform throttles.',
    meaning: 'Calls are answered 429. Width shrinks to what is granted.',
    impact: 'Polls begin later; no trigger is charged for it.',
    diagnosis: ['`polling.poll.width` shows how far the width has shrunk.'],
    mitigation: ['Raise the reserved concurrency of the function, or set `POLL_CAP` to what it has.'],
    fires: { series: { [series('polling.poll.throttles')]: rises(120) } },
  },
  {
    name: 'MilkrunSourceDown',
    severity: 'ticket',
    expr: `${gauge('max', 'polling.poll.sources_down')} > 0`,
    for: '0m',
    summary: 'A toolkit’s provider is down.',
    meaning: 'Over half of the toolkit’s polls failed within a minute; one probe a minute is made until one is good.',
    impact: 'Triggers of that toolkit wait. Others are not touched.',
    diagnosis: ['`milkrun doctor` lists the hold with the toolkit.'],
    mitigation: ['Nothing: it ends with the first good probe.'],
    fires: { series: { [series('polling.poll.sources_down')]: stays(1) } },
  },
  {
    name: 'MilkrunLeasesExpire',
    severity: 'ticket',
    expr: `${increase('polling.batch.finished', '30m', { outcome: 'lease_lost' })} > 0`,
    for: '0m',
    summary: 'Batches lost their lease.',
    meaning: 'A worker died, was stopped for longer than the lease, or a step waited in its queue for too long.',
    impact: 'Their triggers were taken over and polled again: late, with the same event ids.',
    diagnosis: ['Restarts of workers at that time? `polling.step.duration` near its budget?'],
    mitigation: ['Workers die: see their logs. Steps wait: start another worker.'],
    fires: { series: { [series('polling.batch.finished', { outcome: 'lease_lost' })]: rises(1) } },
  },
  {
    name: 'MilkrunSnapshotUnread',
    severity: 'ticket',
    expr: `${increase('polling.snapshot.unread', '1h')} > 0`,
    for: '0m',
    summary: 'A batch ended because its snapshot could not be read.',
    meaning: 'Objects were missing, changed or sealed with another key.',
    impact: 'Its triggers are polled again; events are the same by id.',
    diagnosis: ['The log line `snapshot_unread` names the key; the objects are kept for a look.'],
    mitigation: ['Is `BLOB_KEY` the same in every worker? Does anything but Milkrun write below the prefix?'],
    fires: { series: { [series('polling.snapshot.unread')]: rises(1) } },
  },
  {
    name: 'MilkrunLifecycleStuck',
    severity: 'ticket',
    expr: `${gauge('max', 'polling.lifecycle.pending')} > 100`,
    for: '15m',
    summary: 'The control plane does not take what the engine reports of triggers.',
    meaning: 'Lifecycle records wait: `/state` is not answered, or does not echo them.',
    impact: 'Users do not see why their triggers are off.',
    diagnosis: ['The log line of the lifecycle loop carries the last answer.'],
    mitigation: ['Mend the control plane; the records are sent until they are taken.'],
    fires: { series: { [series('polling.lifecycle.pending')]: stays(500) } },
  },
  {
    name: 'MilkrunWorkersRestart',
    severity: 'ticket',
    expr: `${increase('worker_host.restarts', '15m')} > 3`,
    for: '0m',
    summary: 'Temporal workers keep being replaced.',
    meaning: 'Workers end abnormally; five within a minute end the process.',
    impact: 'Batches are handed over or taken over; polls may be late.',
    diagnosis: ['The log line `worker.restarting` carries the error.'],
    mitigation: [
      'Refused credentials: renew them. A bad deploy: roll back, the liveness loop starts stuck shards again.',
    ],
    fires: { series: { [series('worker_host.restarts')]: rises(1) } },
  },
  {
    name: 'MilkrunTelemetryWrong',
    severity: 'ticket',
    expr: `sum (${series('telemetry.unknown')}) > 0`,
    for: '0m',
    summary: 'A metric was emitted that the catalogue does not have.',
    meaning: 'A bug in Milkrun: the figure is dropped.',
    impact: 'A dashboard may lack a line.',
    diagnosis: ['The tag `problem` tells what was wrong.'],
    mitigation: ['Report it.'],
    fires: { series: { [series('telemetry.unknown', { problem: 'tag' })]: rises(1) } },
  },
];

/** Rules in Prometheus' own form. */
export function renderAlertRules(): string {
  const rules = ALERTS.map(
    (alert) => `      - alert: ${alert.name}
        expr: ${JSON.stringify(alert.expr)}
        for: ${alert.for}
        labels:
          severity: ${alert.severity}
        annotations:
          summary: ${JSON.stringify(annotationsOf(alert).summary)}
          runbook: ${JSON.stringify(annotationsOf(alert).runbook)}
`,
  );
  return `# Generated from packages/telemetry/src/alerts.ts by \`node packages/telemetry/src/docs.ts\`.
groups:
  - name: milkrun
    rules:
${rules.join('')}`;
}

/**
 * promtool's unit tests of the rules: an hour of each alert's series makes it fire, alone; and an hour of quiet fires none.
 */
export function renderAlertTests(): string {
  const quiet: Record<string, string> = {};
  for (const { fires } of ALERTS) for (const name of Object.keys(fires.series)) quiet[name] = stays(0);
  const test = (shown: Readonly<Record<string, string>>, checks: string): string => `  - interval: 1m
    input_series:
${Object.entries(shown)
  .map(([name, values]) => `      - series: ${JSON.stringify(name)}\n        values: '${values}'\n`)
  .join('')}    alert_rule_test:
${checks}`;
  const firing = ALERTS.map((alert) => {
    const labels = { severity: alert.severity, ...alert.fires.labels };
    return test(
      alert.fires.series,
      `      - eval_time: 1h
        alertname: ${alert.name}
        exp_alerts:
          - exp_labels: ${JSON.stringify(labels)}
            exp_annotations: ${JSON.stringify(annotationsOf(alert))}
`,
    );
  });
  const silent = ALERTS.map(
    ({ name }) => `      - eval_time: 1h\n        alertname: ${name}\n        exp_alerts: []\n`,
  );
  return `# Generated from packages/telemetry/src/alerts.ts; run by \`promtool test rules\`.
rule_files: [alerts.yml]
evaluation_interval: 1m
tests:
${test(quiet, silent.join(''))}${firing.join('')}`;
}

const annotationsOf = ({ name, summary }: Alert): { summary: string; runbook: string } => ({
  summary,
  runbook: `docs/alerts.md#${name.toLowerCase()}`,
});

export function renderAlertsDoc(): string {
  const pages = ALERTS.map(
    (alert) => `
## ${alert.name}

${alert.summary} Severity \`${alert.severity}\`${alert.for === '0m' ? '' : `, after ${alert.for}`}.

\`\`\`promql
${alert.expr}
\`\`\`

**Meaning.** ${alert.meaning}

**Impact.** ${alert.impact}

**Diagnosis.**

${list(alert.diagnosis)}
**Mitigation.**

${list(alert.mitigation)}`,
  );
  return `# Alerts

A page for each alert of \`infra/prometheus/alerts.yml\`, generated from code (\`packages/telemetry/src/alerts.ts\`) like the rules
themselves. \`page\` wakes somebody, \`ticket\` waits for the morning. The figures are explained in [metrics](metrics.md), the
commands in [operations](operations.md).
${pages.join('')}`;
}

const list = (items: readonly string[]): string => `${items.map((item) => `- ${item}`).join('\n')}\n`;
