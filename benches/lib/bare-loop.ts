/**
 * The ceiling: a bare signed loop, 500 wide, in a process of its own. It signs, calls and parses, and does nothing else.
 * Arguments: origin, function name, polls, width. Prints one JSON line: polls, seconds, CPU seconds.
 */
import { createSigner, LOCAL_CREDENTIALS } from '@milkrun/poll-runner';
import { Pool } from 'undici';
import { benchBodies } from './bodies.ts';

const [origin = '', name = '', pollsText = '0', widthText = '500'] = process.argv.slice(2);
const polls = Number(pollsText);
const width = Number(widthText);
const path = `/2015-03-31/functions/${encodeURIComponent(name)}/invocations`;
const pool = new Pool(origin, {
  connections: width,
  pipelining: 1,
  keepAliveTimeout: 120_000,
  headersTimeout: 0,
  bodyTimeout: 0,
});
const signer = createSigner({ region: 'us-east-1', service: 'lambda', host: new URL(origin).host });
const bodies = benchBodies(5_000);

function call(n: number): Promise<void> {
  const body = bodies[n % bodies.length] ?? '';
  return new Promise((resolve, reject) => {
    const parts: Buffer[] = [];
    pool.dispatch(
      {
        path,
        method: 'POST',
        headers: signer.sign({ method: 'POST', path, body }, LOCAL_CREDENTIALS, Date.now()),
        body,
      },
      {
        onRequestStart: () => {},
        onResponseStart: () => {},
        onResponseData: (_controller, part) => {
          parts.push(part);
        },
        onResponseEnd: () => {
          JSON.parse(Buffer.concat(parts).toString('utf8'));
          resolve();
        },
        onResponseError: (_controller, error) => reject(error),
      },
    );
  });
}

let next = 0;
async function lane(until: number): Promise<void> {
  while (next < until) {
    next += 1;
    await call(next);
  }
}

async function run(count: number): Promise<{ seconds: number; cpu: number }> {
  next = 0;
  const cpu = process.cpuUsage();
  const started = performance.now();
  await Promise.all(Array.from({ length: width }, () => lane(count)));
  const used = process.cpuUsage(cpu);
  return { seconds: (performance.now() - started) / 1000, cpu: (used.user + used.system) / 1e6 };
}

await run(Math.min(3_000, polls));
const { seconds, cpu } = await run(polls);
process.stdout.write(`${JSON.stringify({ polls, seconds, cpu })}\n`);
await pool.destroy();
