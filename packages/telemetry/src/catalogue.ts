/**
 * The catalogue: every metric Milkrun emits, with type, unit, closed tag sets and how to read it.
 *
 * It is the single source of `docs/metrics.md`, of the Prometheus exposition (names, help texts, buckets) and of the check
 * that code emits nothing else. Ids never are tags, and every tag has a closed set of values, so the number of series is
 * bounded and known.
 *
 * Names are `polling.<step>.<noun>` in snake_case. In StatsD they are as written here; in Prometheus dots become
 * underscores, seconds and bytes are appended, and counters end in `_total`: `polling_claim_due_lag_seconds`.
 */
import { OTHER_CODES, VERDICTS } from '@milkrun/core';

export type MetricType = 'counter' | 'gauge' | 'histogram';

export interface MetricSpec {
  readonly type: MetricType;
  /** `seconds`, `bytes`, `usd`, or what is counted, in the plural. */
  readonly unit: string;
  readonly tags: Readonly<Record<string, readonly string[]>>;
  /** Upper bounds of a histogram's buckets, rising, in the unit; the last one, infinity, is implied. */
  readonly buckets?: readonly number[];
  /** How to read it: what it measures, and what a good or a bad figure looks like. */
  readonly about: string;
}

const STEPS = ['claim', 'auth', 'poll', 'broadcast', 'commit'] as const;
const CODES = Object.keys(VERDICTS);
const AUTH_REASONS = [
  'expired',
  'revoked',
  'not_found',
  'payload_too_large',
  'missing',
  'unavailable',
  'refresh_failed',
];
const PLATFORM_REASONS = ['throttled', 'unavailable', 'too_large', 'response_invalid', 'timeout'];
const HALT_CODES = [...new Set([...CODES, ...Object.keys(OTHER_CODES)])].filter((code) => code !== 'ok');
const VIOLATIONS = [
  'no_next_poll',
  'too_far_ahead',
  'overdue',
  'stuck_handoff',
  'shard_stuck',
  'shard_quiet',
  'batch_abandoned',
  'other',
];
const DEPENDENCIES = ['object_store', 'control_plane', 'poll_function'];

const RUN_STATUSES = [
  'queued',
  'running',
  'succeeded',
  'partial',
  'failed',
  'missed',
  'coalesced',
  'duplicate',
  'skipped',
  'cancelled',
];

/** From a millisecond to ten minutes: latencies of calls, steps and lags alike. */
const LATENCY = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60, 120, 300, 600];
/** Lags that matter are around the tick, 10 s, and around the interval, minutes. */
const LAG = [0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 60, 120, 300, 600, 1800, 3600];
const ROWS = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000];
const BYTES = [256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 8_388_608, 33_554_432];

const entries = {
  // Dispatch: is anything late?
  'polling.claim.due_lag': {
    type: 'histogram',
    unit: 'seconds',
    tags: {},
    buckets: LAG,
    about:
      'Claim time minus next_poll_at of each claimed row. The figure users feel: p99 should stay below tick + 5 s; a rising p99 means that capacity, places or a dependency is short.',
  },
  'polling.claim.rows': {
    type: 'counter',
    unit: 'rows',
    tags: {},
    about: 'Rows leased by claims. Its rate is the offered load.',
  },
  'polling.claim.batch_size': {
    type: 'histogram',
    unit: 'rows',
    tags: {},
    buckets: ROWS,
    about:
      'Rows of each claimed batch. Many tiny batches under load mean that ticks are too frequent or rows too spread.',
  },
  'polling.dispatch.ticks': {
    type: 'counter',
    unit: 'ticks',
    tags: { outcome: ['planned', 'idle', 'held', 'failed'] },
    about: 'Ticks of timer shards. `held` is an open breaker; any `failed` deserves a look at the log.',
  },
  'polling.dispatch.tick_duration': {
    type: 'histogram',
    unit: 'seconds',
    tags: {},
    buckets: LATENCY,
    about: 'Time of one tick activity. Well below DISPATCH_TICK; near it, raise TIMER_SHARDS.',
  },
  'polling.dispatch.due': {
    type: 'gauge',
    unit: 'rows',
    tags: {},
    about: 'Rows due when a timer shard ticked last. Returns to near zero after each tick; growth is a backlog.',
  },
  'polling.dispatch.left': {
    type: 'gauge',
    unit: 'rows',
    tags: {},
    about: 'Due rows a tick left behind for want of places. Above zero for long: add workers.',
  },
  'polling.dispatch.oldest_due_age': {
    type: 'gauge',
    unit: 'seconds',
    tags: {},
    about: 'Age of the oldest due row not under a recorded hold. Above tick + 60 s is a liveness violation.',
  },
  'polling.dispatch.batches_planned': {
    type: 'counter',
    unit: 'batches',
    tags: {},
    about: 'Batches written by ticks.',
  },
  'polling.dispatch.batches_open': {
    type: 'gauge',
    unit: 'batches',
    tags: { step: [...STEPS, 'planned', 'backoff'] },
    about: 'Live batches by the step they are in; backoff is the wait before a next hop.',
  },
  'polling.dispatch.arms': {
    type: 'counter',
    unit: 'signals',
    tags: { by: ['commit', 'feed', 'verb', 'migration', 'start'] },
    about: 'Arm signals sent to timer shards: one a batch at the most, never one a trigger.',
  },
  'polling.leases.held': {
    type: 'gauge',
    unit: 'rows',
    tags: {},
    about: 'Rows whose batch is live. Zero after a drain, always.',
  },

  // Batches and steps
  'polling.batch.finished': {
    type: 'counter',
    unit: 'batches',
    tags: { outcome: ['committed', 'forced', 'lease_lost', 'empty'] },
    about: 'Batches ended. `forced` is a ForceCommit; `lease_lost` was taken over or expired in a queue.',
  },
  'polling.batch.duration': {
    type: 'histogram',
    unit: 'seconds',
    tags: {},
    buckets: LATENCY,
    about: 'From the tick that planned a batch to its end, hops included.',
  },
  'polling.batch.hops': {
    type: 'histogram',
    unit: 'hops',
    tags: {},
    buckets: [1, 2, 3, 4],
    about: 'Runs a batch needed. One is normal; four means that a dependency was down for the whole batch.',
  },
  'polling.step.duration': {
    type: 'histogram',
    unit: 'seconds',
    tags: { step: STEPS, outcome: ['completed', 'failed', 'draining', 'lease_lost'] },
    buckets: LATENCY,
    about:
      'Time of one attempt of a step. Compare with its budget: claim 30, auth 60, poll 120, broadcast 120, commit 60 s.',
  },
  'polling.step.entries': {
    type: 'counter',
    unit: 'entries',
    tags: { step: STEPS, outcome: ['done', 'left', 'fenced'] },
    about: 'Entries by how a step left them: moved forward, left for a later step or hop, or taken away by a change.',
  },

  // Auth
  'polling.auth.duration': {
    type: 'histogram',
    unit: 'seconds',
    tags: {},
    buckets: LATENCY,
    about: 'Time of one POST /conn/batch.',
  },
  'polling.auth.connections': {
    type: 'counter',
    unit: 'connections',
    tags: { status: ['active', ...AUTH_REASONS] },
    about: 'Answers of /conn/batch by connection status.',
  },
  'polling.auth.halvings': {
    type: 'counter',
    unit: 'halvings',
    tags: {},
    about:
      'Chunks of /conn/batch that were too large and were halved. A steady rate means that the learned size keeps being forgotten, or payloads vary wildly.',
  },
  'polling.auth.foreign_answers': {
    type: 'counter',
    unit: 'answers',
    tags: {},
    about:
      'Answers of /conn/batch under a tenant that did not ask for the connection. Never used, and zero: anything else is a fault of the control plane that mixes tenants up. Alert.',
  },
  'polling.trigger.fetch_auth_error': {
    type: 'counter',
    unit: 'triggers',
    tags: { reason: AUTH_REASONS },
    about:
      'Triggers that got no auth. Credential reasons are the users’; missing and unavailable are the control plane’s.',
  },
  'polling.trigger.platform_error': {
    type: 'counter',
    unit: 'triggers',
    tags: { reason: PLATFORM_REASONS },
    about:
      'Polls lost to the poll function’s platform rather than to the connector. They cost the trigger nothing, but should be near zero.',
  },

  // Poll
  'polling.poll.polls': {
    type: 'counter',
    unit: 'polls',
    tags: { code: ['ok', ...CODES] },
    about: 'Polls finished, by code. The rate of all is polls a second; the share of `ok` is the health of the fleet.',
  },
  'polling.legacy.polls': {
    type: 'counter',
    unit: 'polls',
    tags: { code: ['fenced', 'ok', ...CODES] },
    about:
      'Polls of the legacy pipeline that reached their commit, by code; fenced: another owner or attempt had the last word. Falls to nothing as triggers move to v2.',
  },
  'polling.poll.duration': {
    type: 'histogram',
    unit: 'seconds',
    tags: {},
    buckets: LATENCY,
    about: 'Time of one call of the poll function, queueing for a slot not included.',
  },
  'polling.poll.slot_wait': {
    type: 'histogram',
    unit: 'seconds',
    tags: {},
    buckets: LATENCY,
    about: 'Time a poll waited for a slot. High with width_in_use at width: the width is the limit.',
  },
  'polling.poll.pages': {
    type: 'counter',
    unit: 'pages',
    tags: {},
    about: 'Pages read. More than polls means backlogs are being read with `more`.',
  },
  'polling.poll.primed': {
    type: 'counter',
    unit: 'triggers',
    tags: {},
    about: 'Triggers whose first listing was recorded. After a restart it must not move without new triggers.',
  },
  'polling.poll.events_found': {
    type: 'counter',
    unit: 'events',
    tags: {},
    about: 'New things found. Compare its rate with the events delivered.',
  },
  'polling.poll.events_deduplicated': {
    type: 'counter',
    unit: 'items',
    tags: {},
    about: 'Items whose key was known. A listing connector re-reads the same items, so this is large and harmless.',
  },
  'polling.poll.held': {
    type: 'counter',
    unit: 'polls',
    tags: {},
    about:
      'Polls not made: another poll of the connection had been told to stay away, or most polls of the toolkit fail in this step.',
  },
  'polling.poll.gaps_suspected': {
    type: 'counter',
    unit: 'polls',
    tags: {},
    about: 'Full pages without one known key: items may have been missed. Shorten the interval of such triggers.',
  },
  'polling.poll.bad_items': {
    type: 'counter',
    unit: 'items',
    tags: {},
    about: 'Items that went to dead letters while the rest of their page went on.',
  },
  'polling.poll.answer_bytes': {
    type: 'histogram',
    unit: 'bytes',
    tags: {},
    buckets: BYTES,
    about: 'Size of the poll function’s answers.',
  },
  'polling.poll.width': {
    type: 'gauge',
    unit: 'slots',
    tags: {},
    about: 'Slots this process may use now: POLL_WIDTH, lowered by throttles and by POLL_CAP ÷ live workers.',
  },
  'polling.poll.width_in_use': {
    type: 'gauge',
    unit: 'slots',
    tags: {},
    about: 'Slots in use in this process.',
  },
  'polling.poll.throttles': {
    type: 'counter',
    unit: 'calls',
    tags: {},
    about: 'Answers 429 of the poll function’s platform. Each lowers the width: raise the function’s concurrency.',
  },
  'polling.poll.sources_down': {
    type: 'gauge',
    unit: 'toolkits',
    tags: {},
    about:
      'Toolkits held back because over half of their polls failed within a minute; one probe a minute finds out when that ends.',
  },

  // Broadcast
  'polling.broadcast.duration': {
    type: 'histogram',
    unit: 'seconds',
    tags: {},
    buckets: LATENCY,
    about: 'Time of one POST /state.',
  },
  'polling.broadcast.chunks': {
    type: 'counter',
    unit: 'chunks',
    tags: { outcome: ['answered', 'gone', 'refused', 'misconfigured', 'unavailable'] },
    about:
      'Chunks sent to /state by what came back. Refused ones are halved; `misconfigured` means that the receiver refuses the engine itself.',
  },
  'polling.broadcast.events_delivered': {
    type: 'counter',
    unit: 'events',
    tags: {},
    about: 'Events accepted by /state. Over time equal to events found, minus refused ones.',
  },
  'polling.broadcast.gone': {
    type: 'counter',
    unit: 'triggers',
    tags: {},
    about: 'Triggers whose receiver answered 410 or `gone`. A jump trips the brake.',
  },
  'polling.broadcast.parked': {
    type: 'counter',
    unit: 'triggers',
    tags: { reason: ['unavailable', 'misconfigured', 'brake', 'budget'] },
    about: 'Triggers whose events wait for the next hop.',
  },
  'polling.broadcast.dead_letters': {
    type: 'counter',
    unit: 'events',
    tags: { reason: ['refused', 'too_large', 'other'] },
    about: 'Events the receiver refused for good. They lie in dead letters, with their bytes.',
  },
  'polling.broadcast.events_held': {
    type: 'counter',
    unit: 'events',
    tags: {},
    about: 'Undelivered events of non-repeatable sources put aside in held_events.',
  },
  'polling.broadcast.brake': {
    type: 'gauge',
    unit: 'boolean',
    tags: {},
    about:
      '1 while the mass-410 brake is on: too many triggers would be halted within an hour, so they are parked instead.',
  },

  // Commit
  'polling.commit.duration': {
    type: 'histogram',
    unit: 'seconds',
    tags: {},
    buckets: LATENCY,
    about: 'Time of one commit statement.',
  },
  'polling.commit.rows': {
    type: 'counter',
    unit: 'rows',
    tags: { outcome: ['committed', 'already', 'fenced', 'quarantined'] },
    about:
      'Rows by what the fenced UPDATE said. `fenced` follows edits and take-overs; many of them without edits mean that leases expire.',
  },
  'polling.commit.halts': {
    type: 'counter',
    unit: 'triggers',
    tags: { code: HALT_CODES },
    about: 'Triggers halted, by code.',
  },
  'polling.commit.bisections': {
    type: 'counter',
    unit: 'statements',
    tags: {},
    about: 'Commit statements that failed on data and were halved to find the bad row.',
  },

  // Feed, lifecycle, liveness
  'polling.feed.changes': {
    type: 'counter',
    unit: 'changes',
    tags: { outcome: ['upserted', 'deleted', 'stale', 'fenced'] },
    about: 'Changes read from the feed. `stale` ones were older than what is known: harmless.',
  },
  'polling.feed.pages': {
    type: 'counter',
    unit: 'pages',
    tags: { outcome: ['applied', 'lost_race', 'expired', 'failed'] },
    about: 'Pages of the feed. `expired` starts a full resync.',
  },
  'polling.feed.refused': {
    type: 'counter',
    unit: 'changes',
    tags: {},
    about:
      'Records of the feed that break the contract and were left out, their triggers unchanged; the log names the first of each page.',
  },
  'polling.feed.mass_delete': {
    type: 'counter',
    unit: 'resyncs',
    tags: {},
    about: 'Resyncs refused because they would delete more than max(50, 5 %). A person has to confirm.',
  },
  'polling.lifecycle.sent': {
    type: 'counter',
    unit: 'records',
    tags: { state: ['halted', 'resumed', 'warning'] },
    about: 'Lifecycle records the control plane has taken.',
  },
  'polling.lifecycle.pending': {
    type: 'gauge',
    unit: 'records',
    tags: {},
    about: 'Lifecycle records waiting. Growing: users do not see why their triggers are off.',
  },
  'polling.liveness.violations': {
    type: 'gauge',
    unit: 'rows',
    tags: { kind: VIOLATIONS },
    about: 'Violations of the liveness invariant at the last check. Zero, always.',
  },
  'polling.liveness.repaired': {
    type: 'counter',
    unit: 'rows',
    tags: { kind: VIOLATIONS },
    about: 'Violations the loop repaired. Each one is a bug somewhere, already mended.',
  },
  'polling.liveness.stale': {
    type: 'gauge',
    unit: 'triggers',
    tags: {},
    about: 'Polled triggers without a good poll for three intervals.',
  },
  'polling.liveness.silent': {
    type: 'gauge',
    unit: 'triggers',
    tags: {},
    about:
      'Polled triggers that found nothing for SILENCE_FACTOR of their usual gaps. A few are people on holiday; a step is a source that changed.',
  },
  'polling.triggers.polled': {
    type: 'gauge',
    unit: 'triggers',
    tags: {},
    about: 'Triggers that are enabled, not halted and owned by this pipeline.',
  },

  // Snapshot, cost
  'polling.snapshot.puts': {
    type: 'counter',
    unit: 'objects',
    tags: { object: ['entries', 'auth', 'verdicts', 'results', 'delivered'] },
    about: 'Objects written. Goal: at most 3.5 per 1,000 polls.',
  },
  'polling.snapshot.bytes': {
    type: 'counter',
    unit: 'bytes',
    tags: { object: ['entries', 'auth', 'verdicts', 'results', 'delivered'] },
    about: 'Bytes written to the object store.',
  },
  'polling.snapshot.unread': {
    type: 'counter',
    unit: 'batches',
    tags: {},
    about: 'Batches ended by force because their snapshot could not be read. The objects are kept.',
  },
  'polling.temporal.actions': {
    type: 'counter',
    unit: 'actions',
    tags: { kind: ['workflow', 'step', 'signal', 'timer'] },
    about: 'Temporal actions caused, by our count. Per poll: 10 × shards ÷ (polls per second × tick).',
  },
  'polling.cost.per_million_polls': {
    type: 'gauge',
    unit: 'usd',
    tags: { part: ['temporal', 'poll_function', 'object_store', 'total'] },
    about: 'Estimate at list prices since the process started. An order of magnitude, not a bill.',
  },

  // Processes
  'polling.breaker.open': {
    type: 'gauge',
    unit: 'boolean',
    tags: { dependency: DEPENDENCIES },
    about: '1 while this process does not call the dependency because it has just failed repeatedly.',
  },
  'polling.worker.live': {
    type: 'gauge',
    unit: 'workers',
    tags: {},
    about: 'Live rows of the workers table.',
  },
  'worker_host.restarts': {
    type: 'counter',
    unit: 'restarts',
    tags: {},
    about: 'Temporal workers restarted by their supervisor. Five within a minute end the process.',
  },
  'worker_host.connect_failures': {
    type: 'counter',
    unit: 'failures',
    tags: {},
    about: 'Attempts to connect to Temporal that failed; each is tried again with back-off.',
  },
  'worker_host.connections_lost': {
    type: 'counter',
    unit: 'connections',
    tags: {},
    about: 'Connections to Temporal replaced after they were refused, with all workers on them.',
  },
  'worker_host.steps': {
    type: 'counter',
    unit: 'steps',
    tags: { outcome: ['completed', 'cancelled', 'benign', 'failed'] },
    about: 'Attempts of steps by their end. Benign is a hand-over by a draining worker; a failed attempt is retried.',
  },
  'worker_host.running': {
    type: 'gauge',
    unit: 'queues',
    tags: {},
    about: 'Task queues with a running worker. Below the number wanted, the process is not ready.',
  },
  'api.requests': {
    type: 'counter',
    unit: 'requests',
    tags: {
      area: ['triggers', 'connections', 'events', 'activities', 'engine', 'operations', 'console', 'other'],
      status: ['2xx', '3xx', '4xx', '5xx'],
    },
    about: 'HTTP requests answered.',
  },
  'api.request_duration': {
    type: 'histogram',
    unit: 'seconds',
    tags: { area: ['triggers', 'connections', 'events', 'engine', 'operations', 'console', 'other'] },
    buckets: LATENCY,
    about: 'Time to answer an HTTP request; a waiting feed read is not counted.',
  },
  'api.events_stored': {
    type: 'counter',
    unit: 'events',
    tags: { outcome: ['stored', 'duplicate', 'refused'] },
    about: 'Events offered to /state. `duplicate` ones came again with the same id and changed nothing.',
  },
  // Activities: what was opened, and what came of it.
  'activity.runs_opened': {
    type: 'counter',
    unit: 'runs',
    tags: { origin: ['cron', 'at', 'event', 'manual'], status: RUN_STATUSES },
    about: 'Runs opened by origin. `missed` and `coalesced` are ticks that made no run, and say why in their rows.',
  },
  'activity.runs_closed': {
    type: 'counter',
    unit: 'runs',
    tags: { status: RUN_STATUSES },
    about: 'Runs that ended. `failed` is alarming when it rises: each such run shows its error.',
  },
  'activity.tasks_ended': {
    type: 'counter',
    unit: 'tasks',
    tags: { type: ['http', 'event', 'workflow', 'human', 'noop'], status: ['done', 'failed', 'cancelled'] },
    about: 'Tasks that ended, after all their attempts.',
  },
  'activity.schedule_steps': {
    type: 'counter',
    unit: 'steps',
    tags: { verb: ['create', 'update', 'restore', 'pause', 'unpause', 'delete', 'leave'] },
    about: 'What keeping the schedules in step did. `restore`: somebody edited one by hand.',
  },
  'activity.ticks_not_opened': {
    type: 'counter',
    unit: 'ticks',
    tags: {},
    about: 'Ticks that were due and that no schedule opened. Zero: anything else is named in the log and has its rows.',
  },
  'activity.commands': {
    type: 'counter',
    unit: 'commands',
    tags: {},
    about: 'Starts, cancels and completions the API asked for and the orchestrator carried out.',
  },
  'activity.events_received': {
    type: 'counter',
    unit: 'events',
    tags: {
      origin: ['cron', 'at', 'manual', 'api', 'webhook', 'bus', 'poll', 'task', 'own', 'collected', 'replay'],
      state: ['new', 'known', 'conflict', 'refused'],
    },
    about: 'Events the router took. `known` ones were delivered again and started nothing new.',
  },
  'activity.events_dead': {
    type: 'counter',
    unit: 'events',
    tags: { stage: ['decode', 'schema', 'conflict', 'loop', 'start'] },
    about:
      'Events put to dead letters, with their bytes. Zero in quiet times; look with `milkrun activities dead-letters`.',
  },
  'activity.events_collected': {
    type: 'counter',
    unit: 'events',
    tags: { to: ['collect', 'run'] },
    about:
      'Events that were not one run each: collected by debounce or batch, or handed to a run by `deliver: signal`.',
  },
  'activity.events_delivered': {
    type: 'counter',
    unit: 'events',
    tags: {},
    about: 'Events an open run took and planned tasks for.',
  },
  'activity.webhook_deliveries': {
    type: 'counter',
    unit: 'deliveries',
    tags: { result: ['taken', 'signature', 'timestamp'] },
    about:
      'Deliveries to webhooks. `signature`: the secret does not fit, or there is no such webhook; `timestamp`: too old.',
  },
  'activity.bus_holds': {
    type: 'counter',
    unit: 'holds',
    tags: {},
    about:
      'Messages held because PostgreSQL or Temporal was away. None is lost, and none of their deliveries is used up.',
  },
  'telemetry.unknown': {
    type: 'counter',
    unit: 'calls',
    tags: { problem: ['name', 'type', 'tag', 'value'] },
    about: 'Metrics emitted against this catalogue. Zero: anything else is a bug in Milkrun.',
  },
  'telemetry.statsd_errors': {
    type: 'counter',
    unit: 'errors',
    tags: {},
    about: 'Errors of the StatsD socket. UDP reports only local trouble: a dead server stays unnoticed.',
  },
  'telemetry.scrape_errors': {
    type: 'counter',
    unit: 'errors',
    tags: {},
    about: 'Further expositions (the Temporal SDK’s) that could not be added to /metrics.',
  },
} as const satisfies Record<string, MetricSpec>;

export type MetricName = keyof typeof entries;

export const CATALOGUE: Readonly<Record<MetricName, MetricSpec>> = Object.freeze(entries);

/** The metric's name in Prometheus: `polling.claim.due_lag` → `polling_claim_due_lag_seconds`. */
export function prometheusNameOf(name: string, { type, unit }: MetricSpec): string {
  const base = name.replaceAll('.', '_');
  const suffix = ['seconds', 'bytes', 'usd'].includes(unit) && !base.endsWith(`_${unit}`) ? `_${unit}` : '';
  return base + suffix + (type === 'counter' ? '_total' : '');
}
