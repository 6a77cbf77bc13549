import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { onPath, run, runnable } from '../lib/process.mjs';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'process-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

/** A wrapper process that runs `child` (JavaScript) in its place. */
function wrapper(child: string): {
  process: ChildProcess;
  output: () => string;
  says: (text: string) => Promise<void>;
} {
  const lib = new URL('../lib/process.mjs', import.meta.url).href;
  const code = `const { runInOurPlace } = await import(${JSON.stringify(lib)});
    process.exitCode = await runInOurPlace(process.execPath, ['-e', ${JSON.stringify(child)}, 'a b', '--c'], { env: process.env });`;
  const process_ = spawn(process.execPath, ['--input-type=module', '-e', code], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  process_.stdout?.on('data', (chunk: Buffer) => {
    output += chunk.toString();
  });
  const says = async (text: string): Promise<void> => {
    while (!output.includes(text)) await once(process_.stdout as NodeJS.ReadableStream, 'data');
  };
  return { process: process_, output: () => output, says };
}

test.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)(
  '%s lets the child drain and its exit status is ours',
  async (signal) => {
    const child = `process.on('${signal}', () => setTimeout(() => { console.log('drained'); process.exit(7); }, 50));
    setInterval(() => {}, 1000); console.log('up');`;
    const { process, output, says } = wrapper(child);
    await says('up');
    process.kill(signal);
    // npm passes the same signal on again: it must not reach the child as a second request.
    process.kill(signal);
    const [code] = await once(process, 'close');
    expect(output()).toBe('up\ndrained\n');
    expect(code).toBe(7);
  },
);

test('arguments arrive unchanged and a child ended by a signal gives 128 + its number', async () => {
  const { process, output } = wrapper(
    `console.log(JSON.stringify(process.argv.slice(1))); process.kill(process.pid, 'SIGKILL')`,
  );
  const [code] = await once(process, 'close');
  expect(output()).toBe('["a b","--c"]\n');
  expect(code).toBe(137);
});

test('run gives status and output, 127 for an unknown program, 124 on time-out', async () => {
  expect(await run(process.execPath, ['-e', 'console.log("hi"); process.exit(3)'])).toEqual({
    code: 3,
    output: 'hi\n',
  });
  expect((await run(join(dir, 'nothing'), [])).code).toBe(127);
  expect((await run(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { timeoutMs: 50 })).code).toBe(124);
});

test('only executable files are found on PATH', () => {
  writeFileSync(join(dir, 'text'), '');
  writeFileSync(join(dir, 'program'), '', { mode: 0o755 });
  expect(onPath('program', `:${dir}`)).toBe(join(dir, 'program'));
  expect(onPath('text', dir)).toBeUndefined();
  expect(runnable(dir)).toBe(false);
});
