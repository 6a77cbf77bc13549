/**
 * Texts from outside, such as a connector's error message, without the secrets they may repeat: they are kept for people to
 * read, in places where secrets must not lie.
 */

const SHOWN = '[redacted]';
/** Shorter values are words: taking them out would tell more than leaving them. */
const SECRET_CHARS_MIN = 8;
/** Of a secret at the end of a text that was cut, so many characters give it away. */
const CUT_CHARS_MIN = 4;
const ENCODED = [
  ['base64', /[A-Za-z0-9+/_-]{11,}={0,2}/g],
  ['hex', /[0-9a-fA-F]{16,}/g],
] as const;

/** Every string of credentials that is worth hiding. `auth` is JSON text; what `type` says is no secret. */
export function secretsOf(auth: string): readonly string[] {
  const found = new Set<string>();
  const walk = (value: unknown, name: string): void => {
    if (typeof value === 'string') {
      if (value.length >= SECRET_CHARS_MIN && name !== 'type') found.add(value);
    } else if (typeof value === 'object' && value !== null) {
      for (const [key, member] of Object.entries(value)) walk(member, key);
    }
  };
  walk(JSON.parse(auth), '');
  // Longer ones first: one may be part of another.
  return [...found].toSorted((a, b) => b.length - a.length);
}

/**
 * The text without the secrets: as they are, as JSON, a URL or a form writes them, in base64 or hex alone or among other
 * things, and with their end cut off by the text's.
 */
export function withoutSecrets(text: string, all: readonly string[]): string {
  const secrets = all.filter((secret) => secret.length >= SECRET_CHARS_MIN);
  if (secrets.length === 0 || text === '') return text;
  const written = secrets.flatMap(formsOf);
  let clean = text;
  for (const form of written) clean = clean.replaceAll(form, SHOWN);
  for (const [encoding, runs] of ENCODED) {
    clean = clean.replace(runs, (run, at: number) => {
      const isLast = at + run.length === clean.length;
      return decodings(run, encoding).some((decoded) => holds(decoded, secrets, isLast)) ? SHOWN : run;
    });
  }
  const cut = Math.max(0, ...written.map((form) => cutChars(clean, form)));
  return cut === 0 ? clean : clean.slice(0, -cut) + SHOWN;
}

function formsOf(secret: string): string[] {
  const url = encodeURIComponent(secret.toWellFormed());
  return [...new Set([secret, JSON.stringify(secret).slice(1, -1), url, url.replaceAll('%20', '+')])];
}

/** What a run may stand for: what is written before it may have become part of it. */
function decodings(run: string, encoding: 'base64' | 'hex'): string[] {
  const skips = encoding === 'hex' ? [0, 1] : [0, 1, 2, 3];
  return skips.map((skip) => Buffer.from(run.slice(skip), encoding).toString());
}

function holds(decoded: string, secrets: readonly string[], isCut: boolean): boolean {
  return secrets.some(
    (secret) => decoded.includes(secret) || (isCut && cutChars(decoded.replace(/\ufffd+$/, ''), secret) > 0),
  );
}

/** How many characters at the end of a text are the beginning of a form that was cut. */
function cutChars(text: string, form: string): number {
  for (let chars = Math.min(form.length - 1, text.length); chars >= CUT_CHARS_MIN; chars -= 1) {
    if (text.endsWith(form.slice(0, chars))) return chars;
  }
  return 0;
}
