/** The signer against `@smithy/signature-v4`: the SDK's own signer is the oracle over generated requests. */
import { Sha256 } from '@aws-crypto/sha256-js';
import { HttpRequest } from '@smithy/protocol-http';
import { SignatureV4 } from '@smithy/signature-v4';
import { describe, expect, it } from 'vitest';
import { createSigner } from '../src/index.ts';

type AwsIdentity = Extract<ConstructorParameters<typeof SignatureV4>[0]['credentials'], { accessKeyId: string }>;

/** A small seeded generator (mulberry32): a failure names the case, and the case comes again. */
function randomOf(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 4294967296) * below);
  };
}

const ODD = [
  "a'b",
  '(x)',
  '!*',
  'ü',
  '日本',
  'a b',
  'arn:aws:lambda:eu-central-1:1:function:f:live',
  '~._-',
  '%',
  '+',
  '=',
];
const REGIONS = ['us-east-1', 'eu-central-1', 'cn-north-1'];
const HOSTS = ['lambda.us-east-1.amazonaws.com', '127.0.0.1:3001', '[::1]:9'];
const START = Date.UTC(2026, 10, 25, 23, 59, 30);

describe('signer', () => {
  it('signs 1,200 generated requests as the SDK does, over paths, tokens, rotations and midnight', async () => {
    const random = randomOf(7);
    const pick = <T>(list: readonly T[]): T => list[random(list.length)] as T;
    const text = (length: number): string => String.fromCodePoint(...Array.from({ length }, () => 32 + random(900)));
    const signers = new Map<string, ReturnType<typeof createSigner>>();
    let credentials = {
      accessKeyId: 'AKIA0',
      secretAccessKey: 'secret0',
      sessionToken: undefined as string | undefined,
    };
    const wrong: unknown[] = [];
    for (let i = 0; i < 1_200; i += 1) {
      if (random(4) === 0) {
        credentials = {
          accessKeyId: `AKIA${i}`,
          secretAccessKey: `${text(random(80) + 1)}${i}`,
          sessionToken: pick([undefined, `token+/=${i}`, `two  spaces ${i}`]),
        };
      }
      const region = pick(REGIONS);
      const host = pick(HOSTS);
      const signer = signers.get(region + host) ?? createSigner({ region, service: 'lambda', host });
      signers.set(region + host, signer);
      const segments = Array.from({ length: random(4) }, () => pick([...ODD, '', '.', '..', 'plain']));
      const path = `/${segments.map(encodeURIComponent).join('/')}${random(3) === 0 ? '/' : ''}`;
      const body = random(5) === 0 ? '' : text(random(400));
      const method = pick(['GET', 'POST'] as const);
      const now = START + i * random(120);
      const headers = { 'content-type': 'application/json', host };
      const oracle = new SignatureV4({
        credentials: { ...credentials } as AwsIdentity,
        region,
        service: 'lambda',
        sha256: Sha256,
        applyChecksum: false,
      });
      const request = new HttpRequest({ method, path, headers, body });
      const expected = await oracle.sign(request, { signingDate: new Date(now) });
      const flat = signer.sign({ method, path, body }, credentials, now);
      const ours = Object.fromEntries(flat.map((name, at) => [name, flat[at + 1]]).filter((_, at) => at % 2 === 0));
      const { host: _, ...theirs } = expected.headers;
      try {
        expect(ours).toEqual(theirs);
      } catch {
        wrong.push({ i, path, ours, theirs });
      }
    }
    expect(wrong).toEqual([]);
  });

  it('does not sign with the old key after the credentials have changed within the same second', () => {
    const signer = createSigner({ region: 'us-east-1', service: 'lambda', host: 'h' });
    const request = { method: 'POST', path: '/f', body: '{}' } as const;
    const signature = (secretAccessKey: string): string | undefined =>
      signer.sign(request, { accessKeyId: 'A', secretAccessKey }, START).at(-1);
    const first = signature('one');
    expect(signature('two')).not.toBe(first);
    expect(signature('one')).toBe(first);
  });
});
