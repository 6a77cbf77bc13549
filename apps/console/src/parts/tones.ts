/** Which words are good news. */
import type { Tone } from './ui.tsx';

const TONES: Readonly<Record<string, Tone>> = {
  active: 'good',
  succeeded: 'good',
  done: 'good',
  polled: 'good',
  live: 'good',
  running: 'info',
  queued: 'info',
  planned: 'info',
  waiting: 'warn',
  partial: 'warn',
  paused: 'warn',
  missed: 'warn',
  released: 'warn',
  expired: 'warn',
  halted: 'bad',
  failed: 'bad',
  tripped: 'bad',
  revoked: 'bad',
  refresh_failed: 'bad',
  gone: 'bad',
};

export const toneOf = (word: string): Tone => TONES[word] ?? 'quiet';
