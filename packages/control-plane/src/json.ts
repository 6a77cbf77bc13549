/**
 * JSON from the other side of the wire: parsed without prototype surprises and without losing digits, kept as text where
 * the contract calls a value opaque.
 */

/** What may need the careful parser: a `__proto__` key, plain or escaped, or a number a double may not hold. */
const NEEDS_CARE = /__proto__|\\u00(?:5[fF]|[67][0-9a-fA-F])|\d[\d.]{15}|\d[eE]/;

/** NUL or a lone surrogate, as `JSON.stringify` writes them: both are refused by PostgreSQL's jsonb. */
const UNSTORABLE = /(?:^|[^\\])(?:\\\\)*\\u(?:0000|d[89a-f][0-9a-f]{2})/;

/** Levels an opaque value may nest; far above any real one, far below what overflows a stack. */
const DEPTH_MAX = 64;

interface SourceContext {
  readonly source?: string;
}

/** `JSON.rawJSON` and the reviver's third argument, which the ES2024 library does not describe yet. */
const json = JSON as unknown as {
  rawJSON(text: string): unknown;
  parse(text: string, reviver: (key: string, value: unknown, context: SourceContext) => unknown): unknown;
};

/**
 * Parses JSON; `__proto__` keys are left out, numbers that a double cannot hold stay as written (they are printed again
 * digit by digit). Throws SyntaxError or RangeError for what is not JSON or nests too deeply.
 */
export function parseJson(text: string): unknown {
  if (!NEEDS_CARE.test(text)) return JSON.parse(text);
  return json.parse(text, (key, value, context) => {
    if (key === '__proto__') return undefined;
    if (typeof value !== 'number' || context.source === undefined) return value;
    return Number.isFinite(value) && sameNumber(value, context.source) ? value : json.rawJSON(context.source);
  });
}

/** Deeper than any value a schema takes, shallower than what overflows the stack of the careful parser. */
const CUT_DEPTH = 512;

/**
 * `parseJson` for an answer that lists records of many triggers: a value in it that nests too deeply for the parser is cut,
 * so that its own record is refused and no other. Throws SyntaxError for what is not JSON.
 */
export function parseRecords(text: string): unknown {
  try {
    return parseJson(text);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return parseJson(cutBelow(text, CUT_DEPTH));
  }
}

/** JSON text whose lists and objects below `depth` levels are empty. */
function cutBelow(text: string, depthMax: number): string {
  const parts: string[] = [];
  let depth = 0;
  let from = 0;
  let inString = false;
  for (let at = 0; at < text.length; at += 1) {
    const char = text.charCodeAt(at);
    if (inString) {
      if (char === 0x5c) at += 1;
      else if (char === 0x22) inString = false;
    } else if (char === 0x22) inString = true;
    else if (char === 0x7b || char === 0x5b) {
      depth += 1;
      if (depth === depthMax) parts.push(text.slice(from, at + 1));
    } else if (char === 0x7d || char === 0x5d) {
      if (depth === depthMax) from = at;
      depth -= 1;
    }
  }
  return parts.join('') + text.slice(from);
}

/** Whether printing `value` gives the number that was written, whatever its notation. */
function sameNumber(value: number, source: string): boolean {
  const printed = String(value);
  if (printed === source) return true;
  if (Number.isInteger(value))
    return Number.isSafeInteger(value) || (value !== 0 && digitsOf(printed) === digitsOf(source));
  return digitsOf(printed) === digitsOf(source);
}

/** Significant digits and the decimal exponent of a JSON number, so that 1.50e3 equals 1500. */
function digitsOf(text: string): string {
  const [, sign = '', whole = '', fraction = '', exponent = '0'] =
    /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/.exec(text) ?? [];
  const digits = (whole + fraction).replace(/^0+/, '');
  const significant = digits.replace(/0+$/, '');
  return `${sign}${significant}e${Number(exponent) - fraction.length + (digits.length - significant.length)}`;
}

/** Nesting depth of JSON text. */
function depthOf(text: string): number {
  let depth = 0;
  let deepest = 0;
  let inString = false;
  for (let at = 0; at < text.length; at += 1) {
    const char = text.charCodeAt(at);
    if (inString) {
      if (char === 0x5c) at += 1;
      else if (char === 0x22) inString = false;
    } else if (char === 0x22) inString = true;
    else if (char === 0x7b || char === 0x5b) deepest = Math.max(deepest, ++depth);
    else if (char === 0x7d || char === 0x5d) depth -= 1;
  }
  return deepest;
}

export interface OpaqueLimits {
  /** UTF-8 bytes of the text. */
  readonly bytesMax: number;
  /** Refuse NUL and lone surrogates, which a database cannot keep. */
  readonly storable: boolean;
}

/** The JSON text of an opaque value, or the reason why it is not acceptable. */
export function opaqueText(value: unknown, limits: OpaqueLimits): { text: string } | { problem: string } {
  let text: string | undefined;
  try {
    text = JSON.stringify(value);
  } catch {
    return { problem: 'nests too deeply' };
  }
  if (text === undefined) return { problem: 'is missing' };
  if (Buffer.byteLength(text) > limits.bytesMax) return { problem: `is larger than ${limits.bytesMax} bytes` };
  if (depthOf(text) > DEPTH_MAX) return { problem: `nests deeper than ${DEPTH_MAX} levels` };
  if (limits.storable && hasUnstorable(text)) return { problem: 'holds a NUL or a lone surrogate' };
  return { text };
}

/** Whether JSON text printed by `JSON.stringify` holds a NUL or a lone surrogate. */
export function hasUnstorable(text: string): boolean {
  return UNSTORABLE.test(text);
}
