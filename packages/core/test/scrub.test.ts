import fc from 'fast-check';
import { expect, test } from 'vitest';
import { secretsOf, withoutSecrets } from '../src/index.ts';

const TOKEN = 'tok/en+with "marks" & é';
const base64 = (text: string): string => Buffer.from(text).toString('base64');

test('every string of credentials counts, at any depth, but short words and what type says', () => {
  const auth = { type: 'long-type-name', token: TOKEN, short: 'abcdefg', deep: [{ key: 'k'.repeat(8), n: 12345678 }] };
  expect(secretsOf(JSON.stringify(auth))).toEqual([TOKEN, 'kkkkkkkk']);
  expect(secretsOf('{"type":"none"}')).toEqual([]);
  expect(secretsOf('null')).toEqual([]);
});

test.each([
  ['as it is', TOKEN],
  ['as JSON writes it', JSON.stringify({ token: TOKEN })],
  ['in an address', `https://user:${encodeURIComponent(TOKEN)}@host/`],
  ['in a form', `token=${encodeURIComponent(TOKEN).replaceAll('%20', '+')}`],
  ['in base64', base64(TOKEN)],
  ['in base64url', Buffer.from(TOKEN).toString('base64url')],
  ['as a Basic header', `Basic ${base64(`user:${TOKEN}`)}`],
  ['in base64 behind a path', `/path/${base64(TOKEN)}`],
  ['in hex', Buffer.from(TOKEN).toString('hex')],
  ['in upper-case hex, among other things', Buffer.from(`<${TOKEN}>`).toString('hex').toUpperCase()],
])('a secret %s is taken out, and what stands around it stays', (_how, form) => {
  const clean = withoutSecrets(`401 for ${form}: try again`, [TOKEN]);
  expect(clean).toMatch(/^401 for .*\[redacted\].*: try again$/);
  for (const part of ['with', 'marks', base64(TOKEN).slice(0, 12), Buffer.from('with').toString('hex')])
    expect(clean.toLowerCase()).not.toContain(part.toLowerCase());
});

test('a secret that the end of the text cuts leaves nothing of itself', () => {
  const secret = 'sk_live_0123456789';
  for (let cut = 4; cut < secret.length; cut += 1) {
    expect(withoutSecrets(`no such key: ${secret.slice(0, cut)}`, [secret])).toBe('no such key: [redacted]');
  }
  expect(withoutSecrets('a risk', [secret])).toBe('a risk');
  for (const encoding of ['base64', 'hex'] as const) {
    const encoded = Buffer.from(`user:${secret}`).toString(encoding);
    for (let cut = encoded.length - 4; cut < encoded.length; cut += 1) {
      expect(withoutSecrets(`sent: ${encoded.slice(0, cut)}`, [secret])).toBe('sent: [redacted]');
    }
  }
});

test('a secret inside another goes with it', () => {
  const auth = JSON.stringify({ a: 'password', b: 'password-and-more' });
  expect(withoutSecrets('password-and-more', secretsOf(auth))).toBe('[redacted]');
});

test('a text without a secret stays as it is', () => {
  expect(withoutSecrets('', [TOKEN])).toBe('');
  expect(withoutSecrets('a word', ['word', ''])).toBe('a word');
  fc.assert(
    fc.property(fc.string(), (text) => {
      fc.pre(!text.includes('tok/'));
      expect(withoutSecrets(text, [])).toBe(text);
      expect(withoutSecrets(text, [TOKEN])).toBe(text);
    }),
  );
  const hash = 'd2a84f4b8b650937ec8f73cd8be2c74add5a911ba64df27458ed8229da804a26';
  expect(withoutSecrets(`commit ${hash} of aGVsbG8gd29ybGQhIQ==`, [TOKEN])).toBe(
    `commit ${hash} of aGVsbG8gd29ybGQhIQ==`,
  );
});
