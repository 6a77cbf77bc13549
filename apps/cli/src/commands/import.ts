/** `milkrun import`: triggers with what another poller remembers, as NDJSON; `docs/import.md` is its format. */
import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import { ConfigInvalid, type Connector } from '@milkrun/connectors';
import { Command } from 'commander';
import { z } from 'zod';
import { CommandFailed, EXIT } from '../exit-codes.ts';
import { asRecord } from '../http-client.ts';
import type { Io } from '../io.ts';
import { createProgress } from '../progress.ts';
import { knownConnectors } from './own-connectors.ts';
import { contextOf, show } from './shared.ts';

/** Of one request: the API takes 1,000 triggers and 16 MiB. */
const CHUNK_TRIGGERS = 500;
const CHUNK_BYTES = 8 * 1024 * 1024;

const lineSchema = z.strictObject({
  trigger: z.looseObject({
    /** Without it a second import would make everything twice. */
    deduplicationKey: z.string().min(1),
    toolkit: z.string().min(1),
    slug: z.string().min(1),
    connectionId: z.string().min(1),
    config: z.unknown().optional(),
    intervalSeconds: z.int().positive().optional(),
  }),
  cursor: z.unknown().optional(),
  seenKeys: z.array(z.string().min(1)).max(5_000).optional(),
});

interface Chunk {
  readonly from: number;
  readonly to: number;
  readonly triggers: readonly string[];
}

interface Sums {
  triggers: number;
  created: number;
  known: number;
  /** Of those created: they go on from a state instead of priming. */
  withState: number;
}

export function importCommand(io: Io): Command {
  return new Command('import')
    .argument('<file>', 'NDJSON, or - for standard input')
    .description('create triggers from a file, with the cursors and seen keys of the poller they come from')
    .option('--dry-run', 'check every line and send nothing')
    .addHelpText(
      'after',
      `
A line: {"trigger":{"deduplicationKey":"old-17","toolkit":"npm","slug":"npm-package","connectionId":"ID",
"config":{"package":"vite"}},"cursor":null,"seenKeys":["vite@8.0.0"]}
Every line is checked before the first is sent. What was imported before is not made twice, and keeps the state it has.
`,
    )
    .action(async (file: string, { dryRun }: { dryRun?: true }, command: Command) => {
      const context = contextOf(io, command);
      const connectors = await knownConnectors(context);
      const text = file === '-' ? await io.readStdin() : undefined;
      const progress = createProgress(context);
      const total = await countChecked(linesOf(file, text), connectors);
      const sums: Sums = { triggers: total, created: 0, known: 0, withState: 0 };
      if (dryRun !== true) {
        const api = context.api();
        for await (const chunk of chunksOf(linesOf(file, text), connectors)) {
          progress.show(chunk.from - 1, total, `${chunk.from - 1} of ${total} triggers`);
          const body = { triggers: chunk.triggers.map((one) => JSON.parse(one) as { state?: unknown }) };
          const answer = await api.send('POST', '/triggers/bulk', body).catch((error: unknown) => {
            progress.clear();
            throw asChunkFailed(error, chunk);
          });
          for (const [at, { created }] of (asRecord(answer).triggers as { created: boolean }[]).entries()) {
            sums[created ? 'created' : 'known'] += 1;
            if (created && body.triggers[at]?.state !== undefined) sums.withState += 1;
          }
        }
        progress.clear();
      }
      show(context, dryRun === true ? { triggers: total } : sums);
    });
}

/** Lines with text, by their number in the file. */
async function* linesOf(file: string, text: string | undefined): AsyncGenerator<{ at: number; line: string }> {
  let at = 0;
  try {
    const lines = text?.split('\n') ?? createInterface({ input: createReadStream(file, 'utf8') });
    for await (const line of lines) {
      at += 1;
      if (line.trim() !== '') yield { at, line };
    }
  } catch (error) {
    throw new CommandFailed(`${file} can not be read: ${(error as Error).message}`, EXIT.usage, { cause: error });
  }
}

type Lines = ReturnType<typeof linesOf>;

async function countChecked(lines: Lines, connectors: readonly Connector[]): Promise<number> {
  const keys = new Map<string, number>();
  for await (const { at, line } of lines) {
    const { deduplicationKey: key } = bodyOf(at, line, connectors);
    const before = keys.get(key);
    if (before !== undefined) throw refused(at, `deduplicationKey "${key}" stands in line ${before} already`);
    keys.set(key, at);
  }
  return keys.size;
}

/** Counts from the first line with text: what the file's numbers are after blank lines does not matter to the bar. */
async function* chunksOf(lines: Lines, connectors: readonly Connector[]): AsyncGenerator<Chunk> {
  let [triggers, bytes, from, to]: [string[], number, number, number] = [[], 0, 1, 0];
  for await (const { at, line } of lines) {
    const body = JSON.stringify(bodyOf(at, line, connectors));
    const size = Buffer.byteLength(body);
    if (triggers.length > 0 && (triggers.length === CHUNK_TRIGGERS || bytes + size > CHUNK_BYTES)) {
      yield { from, to, triggers };
      [triggers, bytes, from] = [[], 0, at];
    }
    triggers.push(body);
    bytes += size;
    to = at;
  }
  if (triggers.length > 0) yield { from, to, triggers };
}

/** The body of `POST /triggers`, with what a known connector says filled in. */
function bodyOf(at: number, line: string, connectors: readonly Connector[]): { deduplicationKey: string } {
  const { trigger, cursor, seenKeys } = parsed(at, line);
  const connector = connectors.find(({ toolkit, slug }) => toolkit === trigger.toolkit && slug === trigger.slug);
  const config = trigger.config ?? {};
  if (connector === undefined && trigger.intervalSeconds === undefined) {
    throw refused(at, 'trigger.intervalSeconds is needed: the connector is not a known one');
  }
  const hasState = cursor !== undefined || seenKeys !== undefined;
  return {
    ...(connector === undefined
      ? {}
      : {
          version: connector.version,
          intervalSeconds: connector.defaultIntervalSeconds,
          poll: policyOf(at, connector, config),
        }),
    ...trigger,
    config,
    ...(hasState ? { state: { cursor: cursor ?? null, seenKeys: seenKeys ?? [] } } : {}),
  } as { deduplicationKey: string };
}

function parsed(at: number, line: string): z.output<typeof lineSchema> {
  let json: unknown;
  try {
    json = JSON.parse(line);
  } catch (error) {
    throw refused(at, `no JSON: ${(error as Error).message}`);
  }
  const result = lineSchema.safeParse(json);
  if (result.success) return result.data;
  throw refused(at, result.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; '));
}

function policyOf(at: number, connector: Connector, config: unknown): unknown {
  try {
    return connector.policyOf(config);
  } catch (error) {
    if (error instanceof ConfigInvalid) throw refused(at, `trigger.config: ${error.message}`);
    throw error;
  }
}

const refused = (at: number, why: string): CommandFailed =>
  new CommandFailed(`line ${at}: ${why}; nothing was imported`, EXIT.usage);

function asChunkFailed(error: unknown, { from, to }: Chunk): unknown {
  if (!(error instanceof CommandFailed)) return error;
  const before = from === 1 ? '' : ' What stands before them was imported and is not made twice.';
  return new CommandFailed(
    `lines ${from} to ${to} were not imported: ${error.message}\n  triggers.N counts from line ${from}.${before}`,
    error.exitCode,
    { cause: error },
  );
}
