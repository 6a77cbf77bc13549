/**
 * Cursor codecs: how what a trigger remembers under one pipeline is written for the other. A toolkit without a codec is not
 * moved: polling on from a cursor that means something else would lose or repeat events.
 *
 * `exact`: both pipelines call the same connector with the same cursor; cursor and seen keys go as they are. `time`: the
 * cursor goes, the seen keys do not mean the same on the other side; the first poll there remembers in silence whatever is
 * dated up to the last good poll. Only for `watermark`, whose items have times.
 */
import type { CarriedTrigger, DedupeStrategy } from '@milkrun/core';

export type CodecName = 'exact' | 'time';

interface CursorCodec {
  accepts(dedupe: DedupeStrategy): boolean;
  carry(trigger: CarriedTrigger): CarriedTrigger;
}

export interface Codecs {
  accepts(toolkit: string, dedupe: DedupeStrategy): boolean;
  /** Throws for what `accepts` refuses. */
  carry(trigger: CarriedTrigger): CarriedTrigger;
}

const CODECS: Readonly<Record<CodecName, CursorCodec>> = {
  exact: { accepts: () => true, carry: (trigger) => trigger },
  time: {
    accepts: (dedupe) => dedupe === 'watermark',
    // Never polled well: the prime that is to come begins where it would have begun.
    carry: (trigger) =>
      trigger.primed && trigger.lastOkAt !== null ? { ...trigger, seen: '', toldUntil: trigger.lastOkAt } : trigger,
  },
};

/** By toolkit, with `*` for every other: `{ npm: 'exact' }`. */
export function createCodecs(named: Readonly<Record<string, CodecName>>): Codecs {
  const codecOf = (toolkit: string): CursorCodec | undefined => {
    const name = Object.hasOwn(named, toolkit) ? named[toolkit] : named['*'];
    return name === undefined ? undefined : CODECS[name];
  };
  return {
    accepts: (toolkit, dedupe) => codecOf(toolkit)?.accepts(dedupe) === true,
    carry(trigger) {
      const codec = codecOf(trigger.toolkit);
      if (codec?.accepts(trigger.dedupe) !== true) throw new Error(`no codec carries cursors of ${trigger.toolkit}`);
      return codec.carry(trigger);
    },
  };
}
