/** UUIDs from injected time and randomness. */
import type { Clock } from './ports/clock.ts';
import type { Rng } from './ports/rng.ts';

/** A version 7 UUID (RFC 9562): 48 bits of the clock's milliseconds, then 74 random bits; sorts by time of making. */
export function uuidv7(clock: Clock, rng: Rng): string {
  const bytes = Buffer.from(rng.bytes(16));
  bytes.writeUIntBE(clock.now(), 0, 6);
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x70;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  const hex = bytes.toString('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

/** Milliseconds since the epoch at which a version 7 UUID was made; undefined for any other text. */
export function uuidTimeOf(text: string): number | undefined {
  return isUuid(text) && text[14] === '7' ? Number.parseInt(text.slice(0, 8) + text.slice(9, 13), 16) : undefined;
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** Whether `text` is a lower-case UUID of any version. */
export function isUuid(text: string): boolean {
  return UUID.test(text);
}
