/**
 * Sending what one lane has to send: chunks over several triggers, each accepted chunk recorded before the next (shrink on
 * success), order kept inside a trigger, nothing later sent before something parked.
 */
import type { DeadLetter, HeldEvent, StateResult, StateStatus } from '@milkrun/core';
import { halve } from '@milkrun/core';
import type { DeliverDeps } from './deps.ts';
import type { FoldedPage } from './fold.ts';
import { type DeliveredRecord, deadLetterRecordOf, HELD_REF } from './snapshot/records.ts';

/** One event to send, and the page it came from; held events come from an earlier batch and have none. */
export interface Outgoing {
  readonly eventId: string;
  readonly json: string;
  readonly page: FoldedPage | undefined;
}

/** All that is to be sent of one trigger, in order. */
export interface Parcel {
  readonly triggerId: string;
  readonly leaseEpoch: number;
  readonly configVersion: number;
  readonly triggerVersion: string;
  readonly hop: number;
  readonly attempt: number;
  readonly events: readonly Outgoing[];
  /** Pages without events that must be told all the same: a finished prime. */
  readonly emptyPages: readonly FoldedPage[];
  readonly pollState?: string;
}

type ParkReason = 'unavailable' | 'misconfigured' | 'brake';

type ParcelEnd = 'delivered' | 'gone' | 'parked';

export interface LaneReport {
  readonly ends: ReadonlyMap<string, ParcelEnd>;
  readonly delivered: number;
  readonly refused: number;
  readonly askedSeconds: number;
}

interface Piece {
  readonly parcel: Parcel;
  readonly events: readonly Outgoing[];
  readonly last: boolean;
}

export interface LaneOptions {
  readonly batchId: string;
  readonly signal: AbortSignal;
  readonly mayStart: () => boolean;
  readonly brake: () => boolean;
  readonly isFenced: (triggerId: string) => boolean;
  readonly record: (records: readonly DeliveredRecord[]) => Promise<void>;
}

/** Rough bytes of a result around its events. */
const FRAME_BYTES = 512;
const UNSAID = 'the receiver refused it';

type Refusal = Extract<StateStatus, { status: 'rejected' }>;

export async function deliverLane(
  deps: DeliverDeps,
  parcels: readonly Parcel[],
  options: LaneOptions,
): Promise<LaneReport> {
  const ends = new Map<string, ParcelEnd>();
  let delivered = 0;
  let refused = 0;
  let askedSeconds = 0;
  const queue: Piece[][] = chunksOf(deps, parcels);
  for (let chunk = queue.shift(); chunk !== undefined; chunk = queue.shift()) {
    const live = chunk.filter(
      (piece) => !ends.has(piece.parcel.triggerId) && !options.isFenced(piece.parcel.triggerId),
    );
    if (live.length === 0) continue;
    if (!options.mayStart() || options.signal.aborted) {
      for (const piece of live) ends.set(piece.parcel.triggerId, 'parked');
      continue;
    }
    const answer = await deps.controlPlane.postState({
      batchId: options.batchId,
      results: live.map(resultOf),
      lifecycle: [],
      signal: options.signal,
    });
    deps.metrics.count('polling.broadcast.chunks', 1, { outcome: answer.kind });
    switch (answer.kind) {
      case 'answered':
        await takeStatuses(live, answer.statuses);
        break;
      case 'gone':
        if (options.brake()) park(live, 'brake');
        else if (live.length > 1) queue.unshift(...live.map((piece) => [piece]));
        else await gone(live[0] as Piece);
        break;
      case 'refused':
        await refuse(live, answer.reason);
        break;
      case 'misconfigured':
        deps.log.error(
          { batchId: options.batchId, status: answer.status, reason: answer.reason },
          'broadcast.misconfigured',
        );
        park(live, 'misconfigured');
        for (const rest of queue.splice(0)) park(rest, 'misconfigured');
        break;
      case 'unavailable':
        askedSeconds = Math.max(askedSeconds, answer.retryAfterSeconds ?? 0);
        park(live, 'unavailable');
        break;
    }
  }
  for (const parcel of parcels)
    if (!ends.has(parcel.triggerId) && !options.isFenced(parcel.triggerId)) ends.set(parcel.triggerId, 'delivered');
  return { ends, delivered, refused, askedSeconds };

  function park(pieces: readonly Piece[], reason: ParkReason): void {
    for (const piece of pieces) {
      if (!ends.has(piece.parcel.triggerId)) {
        ends.set(piece.parcel.triggerId, 'parked');
        deps.metrics.count('polling.broadcast.parked', 1, { reason });
      }
    }
  }

  async function gone(piece: Piece): Promise<void> {
    deps.metrics.count('polling.broadcast.gone');
    const page = piece.parcel.emptyPages[0] ?? piece.parcel.events.find((event) => event.page !== undefined)?.page;
    await options.record([{ ...originOf(piece.parcel), result: page?.at ?? HELD_REF, status: 'gone' }]);
    ends.set(piece.parcel.triggerId, 'gone');
  }

  /** Matched by id; what is missing, or named twice, is not accepted. Several events of one trigger may be refused at once. */
  async function takeStatuses(pieces: readonly Piece[], statuses: readonly StateStatus[]): Promise<void> {
    const byTrigger = Map.groupBy(statuses, ({ triggerId }) => triggerId);
    const accepted: Piece[] = [];
    const again: Piece[] = [];
    const lost: Piece[] = [];
    for (const piece of pieces) {
      const own = byTrigger.get(piece.parcel.triggerId) ?? [];
      const refusals = own.filter((status) => status.status === 'rejected');
      if (own.length === 1 && own[0]?.status === 'accepted') accepted.push(piece);
      else if (own.length === 1 && own[0]?.status === 'gone') {
        if (options.brake()) park([piece], 'brake');
        else lost.push(piece);
      } else if (own.length > 0 && refusals.length === own.length) again.push(...(await takeRefusals(piece, refusals)));
      else park([piece], 'unavailable');
    }
    if (accepted.length > 0) await accept(accepted);
    for (const piece of lost) await gone(piece);
    // Pieces of one trigger stay in order: each goes alone, before anything that was queued behind it.
    queue.unshift(...again.map((piece) => [piece]));
  }

  /** Named events go to dead letters and the rest is sent again; when none is named, halves find the bad one. */
  async function takeRefusals(piece: Piece, refusals: readonly Refusal[]): Promise<readonly Piece[]> {
    const named = new Map(refusals.map((refusal) => [refusal.eventId, refusal.reason]));
    const bad = piece.events.filter((event) => named.has(event.eventId));
    if (bad.length === 0) {
      if (named.has(undefined)) return await splitOrLetter(piece, named.get(undefined) ?? UNSAID);
      // Only strangers are named: that says nothing about ours, and none of ours is given up for it.
      park([piece], 'unavailable');
      return [];
    }
    for (const event of bad) await deadLetter(piece.parcel, event, named.get(event.eventId) ?? UNSAID);
    return restOf(piece, new Set(bad));
  }

  /** What is tried next of a piece that was refused as a whole: halves of it, or nothing but a dead letter. */
  async function splitOrLetter(piece: Piece, reason: string): Promise<readonly Piece[]> {
    if (piece.events.length > 1) return splitPiece(piece);
    const [event] = piece.events;
    if (event === undefined) {
      park([piece], 'unavailable');
      return [];
    }
    // The poll state that goes along with the last event may be what is refused: the event is judged alone.
    if (piece.last && piece.parcel.pollState !== undefined) {
      return [
        { ...piece, last: false },
        { ...piece, events: [] },
      ];
    }
    await deadLetter(piece.parcel, event, reason);
    return restOf(piece, new Set([event]));
  }

  async function accept(pieces: readonly Piece[]): Promise<void> {
    const records: DeliveredRecord[] = [];
    for (const piece of pieces) {
      delivered += piece.events.length;
      const byPage = new Map<FoldedPage | undefined, string[]>();
      for (const event of piece.events) {
        const page = event.page;
        const found = byPage.get(page);
        if (found === undefined) byPage.set(page, [event.eventId]);
        else found.push(event.eventId);
      }
      for (const [page, eventIds] of byPage) {
        const whole = page !== undefined && eventIds.length === page.record.events.length;
        records.push({
          ...originOf(piece.parcel),
          result: page?.at ?? HELD_REF,
          status: 'accepted',
          ...(whole ? {} : { eventIds }),
        });
      }
      if (piece.last)
        for (const page of piece.parcel.emptyPages)
          records.push({ ...originOf(piece.parcel), result: page.at, status: 'accepted' });
    }
    deps.metrics.count(
      'polling.broadcast.events_delivered',
      pieces.reduce((sum, piece) => sum + piece.events.length, 0),
    );
    if (records.length > 0) await options.record(records);
  }

  async function refuse(pieces: readonly Piece[], reason: string): Promise<void> {
    if (pieces.length > 1) {
      const [first, second] = halve(pieces);
      queue.unshift([...first], [...second]);
      return;
    }
    queue.unshift(...(await splitOrLetter(pieces[0] as Piece, reason)).map((piece) => [piece]));
  }

  async function deadLetter(parcel: Parcel, event: Outgoing, reason: string): Promise<void> {
    refused += 1;
    deps.metrics.count('polling.broadcast.dead_letters', 1, { reason: 'refused' });
    const letter: DeadLetter = {
      stage: 'broadcast',
      code: 'broadcast.event_refused',
      reason: reason.slice(0, 500),
      eventId: event.eventId,
      raw: Buffer.from(event.json, 'utf8'),
    };
    await options.record([
      {
        ...originOf(parcel),
        result: event.page?.at ?? HELD_REF,
        status: 'refused',
        eventIds: [event.eventId],
        deadLetters: [deadLetterRecordOf(letter)],
      },
    ]);
  }
}

function originOf(parcel: Parcel) {
  return { triggerId: parcel.triggerId, leaseEpoch: parcel.leaseEpoch, hop: parcel.hop, attempt: parcel.attempt };
}

/** A piece without some of its events; one that was the last is sent even when empty, for the state that goes along. */
function restOf(piece: Piece, without: ReadonlySet<Outgoing>): readonly Piece[] {
  const events = piece.events.filter((event) => !without.has(event));
  return events.length > 0 || piece.last ? [{ ...piece, events }] : [];
}

function splitPiece(piece: Piece): readonly [Piece, Piece] {
  const [first, second] = halve(piece.events);
  return [
    { ...piece, events: first, last: false },
    { ...piece, events: second },
  ];
}

function resultOf({ parcel, events, last }: Piece): StateResult {
  return {
    triggerId: parcel.triggerId,
    leaseEpoch: parcel.leaseEpoch,
    configVersion: parcel.configVersion,
    triggerVersion: parcel.triggerVersion,
    events: events.map((event) => event.json),
    last,
    ...(last && parcel.pollState !== undefined ? { pollState: parcel.pollState } : {}),
  };
}

/** Chunks of ≤ 500 events and ≤ 1 MiB; a long parcel spans several, `last` only on its final piece, with the poll state. */
function chunksOf(deps: DeliverDeps, parcels: readonly Parcel[]): Piece[][] {
  const { chunkEventsMax, chunkBytesMax } = deps.limits;
  const chunks: Piece[][] = [];
  let chunk: Piece[] = [];
  let events = 0;
  let bytes = 0;
  const close = (): void => {
    if (chunk.length > 0) chunks.push(chunk);
    chunk = [];
    events = 0;
    bytes = 0;
  };
  for (const parcel of parcels) {
    let piece: Outgoing[] = [];
    /** Ends the chunk, with what it has of this parcel. */
    const cut = (): void => {
      if (piece.length > 0) chunk.push({ parcel, events: piece, last: false });
      piece = [];
      close();
      bytes = FRAME_BYTES;
    };
    const stateBytes = parcel.pollState?.length ?? 0;
    if (chunk.length > 0 && bytes + FRAME_BYTES + stateBytes > chunkBytesMax) close();
    bytes += FRAME_BYTES;
    for (const event of parcel.events) {
      const size = Buffer.byteLength(event.json);
      if (events + 1 > chunkEventsMax || (bytes + size > chunkBytesMax && events > 0)) cut();
      piece.push(event);
      events += 1;
      bytes += size;
    }
    // A large event and a large state each fit a chunk, but not one together.
    if (stateBytes > 0 && bytes + stateBytes > chunkBytesMax && piece.length > 0) cut();
    chunk.push({ parcel, events: piece, last: true });
    bytes += stateBytes;
  }
  close();
  return chunks;
}

/** Held events as outgoing, oldest first. */
export function outgoingOfHeld(held: readonly HeldEvent[]): Outgoing[] {
  return held.map((event) => ({ eventId: event.eventId, json: event.json, page: undefined }));
}
