/** Records of the change feed, pulled or pushed: each is judged alone, a bad one never takes its neighbours along. */
import type { FeedChange, TriggerChange } from '@milkrun/core';
import type { z } from 'zod';
import { deleteSchema, issueText, pushSchema, upsertSchema } from './schemas.ts';

export interface RefusedChange {
  /** Position in the given list. */
  readonly index: number;
  /** The trigger it names, when that much could be read. */
  readonly triggerId?: string;
  readonly reason: string;
}

export interface ParsedChanges {
  readonly changes: readonly FeedChange[];
  readonly refused: readonly RefusedChange[];
}

/**
 * Parses records of the feed. Opaque fields come out as JSON text; `poll` defaults to unique and repeatable.
 * Never throws for a bad record: it is listed in `refused`.
 */
export function parseChanges(records: readonly unknown[]): ParsedChanges {
  const changes: FeedChange[] = [];
  const refused: RefusedChange[] = [];
  for (const [index, record] of records.entries()) {
    const isDelete = typeof record === 'object' && record !== null && (record as { op?: unknown }).op === 'delete';
    const parsed = isDelete ? deleteSchema.safeParse(record) : upsertSchema.safeParse(record);
    if (parsed.success) {
      changes.push(parsed.data.op === 'delete' ? parsed.data : changeOf(parsed.data));
      continue;
    }
    const named = deleteSchema.shape.triggerId.safeParse((record as { triggerId?: unknown } | null)?.triggerId);
    refused.push({
      index,
      ...(named.success ? { triggerId: named.data } : {}),
      reason: issueText(parsed.error),
    });
  }
  return { changes, refused };
}

/** The body of the push twin: `{ changes: [...] }`. Throws a ZodError when the envelope itself is wrong. */
export function parsePush(body: unknown): ParsedChanges {
  return parseChanges(pushSchema.parse(body).changes);
}

function changeOf(record: z.infer<typeof upsertSchema>): TriggerChange & { readonly op: 'upsert' } {
  const { since, poll, primed, pollNow, cursor, pollState, resume, liftedVersion, pipeline, ownershipEpoch, ...rest } =
    record;
  const { dedupe = 'unique', repeatable = true, overlapSeconds } = poll ?? {};
  return {
    ...rest,
    poll: { dedupe, repeatable, ...(overlapSeconds === undefined ? {} : { overlapSeconds }) },
    primed: primed ?? false,
    pollNow: pollNow ?? false,
    ...(since === undefined ? {} : { since }),
    ...(cursor === undefined ? {} : { cursor }),
    ...(pollState === undefined ? {} : { pollState }),
    ...(resume === undefined ? {} : { resume }),
    ...(liftedVersion === undefined ? {} : { liftedVersion }),
    ...(pipeline === undefined ? {} : { pipeline }),
    ...(ownershipEpoch === undefined ? {} : { ownershipEpoch }),
  };
}
