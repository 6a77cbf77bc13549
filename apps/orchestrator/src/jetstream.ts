/**
 * The bus: NATS JetStream. Events of the outbox are published to it, and what is on it is routed to activities.
 *
 * A message is acknowledged, with the server's word for it, only after every matched run was started. What can not be routed
 * now (the database or Temporal is away) is held and tried again by the same process while it tells the server that it is at
 * work, so an outage uses up nobody's deliveries. What fails for itself comes again later each time, and after ten deliveries
 * is put to dead letters.
 */
import { type Delivery, natsHeadersOf, type Router } from '@milkrun/activity-core';
import type { Clock, Log, Metrics, OutboxEvent, Rng, RouterStore, Secret } from '@milkrun/core';
import {
  AckPolicy,
  type Consumer,
  DeliverPolicy,
  type JetStreamClient,
  type JsMsg,
  jetstream,
  jetstreamManager,
  RetentionPolicy,
  StorageType,
} from '@nats-io/jetstream';
import { connect, type NatsConnection, nanos, headers as newHeaders } from '@nats-io/transport-node';

export const BUS = {
  stream: 'ACTIVITY_EVENTS',
  subjects: 'activity.>',
  consumer: 'activity-core-event-router',
} as const;

export interface BusDeps {
  readonly url: Secret;
  readonly router: Router;
  readonly store: RouterStore;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Log;
  readonly metrics: Metrics;
  /** Tenant of events that name none. */
  readonly defaultTenant: string;
}

export interface Bus {
  /** Puts an event of the outbox on the stream; twice within ten minutes is once. */
  publish(event: OutboxEvent): Promise<void>;
  /** Ends what is in hand, gives back what was fetched and not begun, then ends the connection. */
  close(): Promise<void>;
}

/** Whose event it is: beside the event, so that its content is the same whichever way it comes. */
const TENANT_HEADER = 'milkrun-tenant';
const ACK_WAIT_MS = 30_000;
const DELIVERIES_MAX = 10;
const IN_HAND_MAX = 16;
const ASKED_MAX = 64;
const ASK_MS = 1_000;
const NAK_MS = [1_000, 2_000, 5_000, 15_000, 60_000];
const HOLD_MS = 2_000;
const MIB = 1024 * 1024;

export async function openBus(deps: BusDeps): Promise<Bus> {
  const { log } = deps;
  const connection = await connect({
    servers: deps.url.reveal(),
    name: 'milkrun-orchestrator',
    maxReconnectAttempts: -1,
    waitOnFirstConnect: true,
  });
  await ensure(connection);
  const js = jetstream(connection);
  const closing = new AbortController();
  const reading = readUntil(closing.signal);
  return {
    publish: (event) => publish(js, event),
    async close() {
      closing.abort();
      await reading;
      await connection.drain();
    },
  };

  async function readUntil(signal: AbortSignal): Promise<void> {
    const inHand = new Set<Promise<void>>();
    while (!signal.aborted) {
      try {
        await read(await js.consumers.get(BUS.stream, BUS.consumer), inHand, deps, signal);
      } catch (error) {
        if (signal.aborted) break;
        log.warn({ error: String(error) }, 'bus.reading_failed');
        await deps.clock.sleep(HOLD_MS, signal).catch(() => undefined);
        await ensure(connection).catch(() => undefined);
      }
    }
    await Promise.all(inHand);
  }
}

/** The stream and the durable consumer, as they should be; older ones are brought up to date. */
async function ensure(connection: NatsConnection): Promise<void> {
  const manager = await jetstreamManager(connection);
  const stream = {
    subjects: [BUS.subjects],
    max_age: nanos(7 * 86_400_000),
    duplicate_window: nanos(600_000),
    max_msg_size: MIB,
  };
  const known = await manager.streams.info(BUS.stream).catch(() => undefined);
  if (known === undefined) {
    const fixed = { storage: StorageType.File, retention: RetentionPolicy.Limits };
    await manager.streams.add({ name: BUS.stream, ...fixed, ...stream });
  } else {
    await manager.streams.update(BUS.stream, stream);
  }
  const consumer = {
    ack_wait: nanos(ACK_WAIT_MS),
    max_ack_pending: 256,
    // One's own count decides; the server's is the last fence, for a message that kills whoever takes it.
    max_deliver: DELIVERIES_MAX + 2,
    filter_subject: BUS.subjects,
  };
  const existing = await manager.consumers.info(BUS.stream, BUS.consumer).catch(() => undefined);
  if (existing === undefined) {
    const fixed = { ack_policy: AckPolicy.Explicit, deliver_policy: DeliverPolicy.All };
    await manager.consumers.add(BUS.stream, { durable_name: BUS.consumer, ...fixed, ...consumer });
  } else {
    await manager.consumers.update(BUS.stream, BUS.consumer, consumer);
  }
}

async function publish(js: JetStreamClient, { key, record, tenantId }: OutboxEvent): Promise<void> {
  const { headers, data, type } = natsHeadersOf(JSON.parse(record) as Record<string, unknown>);
  const sent = newHeaders();
  for (const [name, value] of Object.entries(headers)) sent.set(name, value);
  sent.set(TENANT_HEADER, tenantId);
  await js.publish(`activity.${type}`, data, { msgID: key, headers: sent });
}

/**
 * Asks for messages, a bounded number for a second at most, and asks again: a request that has ended leaves nothing on its
 * way, so that a router that closes can give back all that it was handed.
 */
async function read(consumer: Consumer, inHand: Set<Promise<void>>, deps: BusDeps, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    for await (const message of await consumer.fetch({ max_messages: ASKED_MAX, expires: ASK_MS })) {
      if (signal.aborted) {
        message.nak();
        continue;
      }
      const handled = handle(message, deps, signal).finally(() => inHand.delete(handled));
      inHand.add(handled);
      if (inHand.size >= IN_HAND_MAX) await Promise.race(inHand);
    }
  }
}

async function handle(message: JsMsg, deps: BusDeps, signal: AbortSignal): Promise<void> {
  const { router, store, clock, rng, log, metrics } = deps;
  const { deliveryCount: tries } = message.info;
  const delivery = deliveryOf(message, deps.defaultTenant);
  try {
    for (;;) {
      try {
        const routed = await router.route(delivery);
        if (routed.result === 'dead') message.term(routed.stage);
        else await message.ackAck();
        return;
      } catch (error) {
        if (signal.aborted) {
          message.nak();
          return;
        }
        if (!isInfrastructure(error)) {
          await giveBack(error);
          return;
        }
        metrics.count('activity.bus_holds', 1);
        log.warn({ streamSeq: message.seq, error: String(error) }, 'bus.held');
        message.working();
        await clock.sleep(HOLD_MS, signal).catch(() => undefined);
      }
    }
  } catch (error) {
    log.error({ streamSeq: message.seq, error: String(error) }, 'bus.message_left');
  }

  async function giveBack(error: unknown): Promise<void> {
    const text = error instanceof Error ? error.message : String(error);
    if (tries < DELIVERIES_MAX) {
      const waitMs = NAK_MS[Math.min(tries, NAK_MS.length) - 1] as number;
      message.nak(Math.round(waitMs * (0.75 + rng.next() / 2)));
      log.warn({ streamSeq: message.seq, tries, error: text }, 'bus.message_returned');
      return;
    }
    await store.deadLetter({ ...delivery, stage: 'start', eventKey: null, error: text });
    metrics.count('activity.events_dead', 1, { stage: 'start' });
    message.term('start');
  }
}

function deliveryOf(message: JsMsg, defaultTenant: string): Delivery {
  const headers: Record<string, string> = {};
  for (const [name, values] of message.headers ?? []) headers[name.toLowerCase()] = values[0] ?? '';
  const tenantId = headers[TENANT_HEADER] ?? defaultTenant;
  return {
    tenantId,
    origin: headers['ce-triggerid'] === undefined ? 'bus' : 'poll',
    raw: message.data,
    headers,
    streamSeq: message.seq,
    tries: message.info.deliveryCount,
  };
}

/** PostgreSQL or Temporal can not be reached or is overloaded: it concerns every message alike. */
function isInfrastructure(error: unknown): boolean {
  for (let at = error; typeof at === 'object' && at !== null; at = (at as { cause?: unknown }).cause) {
    const { code, name } = at as { code?: unknown; name?: unknown };
    if (typeof code === 'string' && /^(08|53|57|CONNECT|CONNECTION_|ECONN|ETIMEDOUT|ENOTFOUND|EPIPE)/.test(code))
      return true;
    // gRPC: deadline exceeded, resource exhausted, aborted, unavailable.
    if (typeof code === 'number' && [4, 8, 10, 14].includes(code)) return true;
    if (name === 'ServiceError' || name === 'TransportError') return true;
  }
  return false;
}
