/** Renders `docs/configuration.md` from the options; `node src/docs.ts` writes it. */
import { writeFileSync } from 'node:fs';
import { OPTIONS, type Option } from './options.ts';

export const CONFIGURATION_DOC = new URL('../../../docs/configuration.md', import.meta.url);

const HEAD = `# Configuration

Settings are environment variables, generated here from the options in code (\`packages/config/src/options.ts\`). One YAML file
may hold them instead, under the same names (\`MILKRUN_CONFIG=milkrun.yaml\` or \`--config milkrun.yaml\`); the environment wins.
They are read once, at start. \`milkrun config list\` and the start-up log print them with secrets masked. A wrong value, an
unknown name, or values that contradict each other are refused at start, all at once, with what is accepted.

- Durations are an integer with \`ms\`, \`s\`, \`m\` or \`h\`. Sizes are bytes, or an integer with \`KiB\`, \`MiB\` or \`GiB\`.
- An empty variable counts as not set.
- Temporal is configured by Temporal's own settings: \`TEMPORAL_ADDRESS\`, \`TEMPORAL_NAMESPACE\`, \`TEMPORAL_API_KEY\`,
  \`TEMPORAL_TLS_…\`, \`TEMPORAL_PROFILE\` and its TOML file. AWS is configured by AWS's standard chain.
- *Required by* names the processes that do not start without the setting; \`milkrun dev\` provides every one of them itself.

Refused: \`LEASE_TTL\` below 15s; \`POLL_DEADLINE\` above half of the poll step's budget of 120s; \`DISPATCH_TICK\` above 60s;
\`POLL_BYTE_BUDGET\` below \`POLL_WIDTH\` × \`POLL_ANSWER_LIMIT\`; no \`ENGINE_KEY\` while \`ENGINE_HOST\` is not loopback; no
\`BLOB_KEY\` with an s3 \`OBJECT_STORE\`.

`;

/** The whole page as Markdown. */
export function renderConfigurationDoc(): string {
  const cell = (text: string): string => text.replaceAll('|', '\\|');
  const rows = (Object.values(OPTIONS) as Option<unknown>[]).map((option) => {
    const fallback = option.default === undefined ? '–' : `\`${option.default}\``;
    const about = `${option.about}${option.secret ? ' Secret.' : ''} Accepted: ${option.parser.accepts}.`;
    const readBy = option.readBy.map((name) => (option.requiredBy.includes(name) ? `**${name}**` : name)).join(', ');
    return `| \`${option.env}\` | ${fallback} | ${cell(about)} | ${readBy} |\n`;
  });
  return `${HEAD}| Setting | Default | Meaning | Read by (**required by**) |\n| --- | --- | --- | --- |\n${rows.join('')}`;
}

if (import.meta.main) writeFileSync(CONFIGURATION_DOC, renderConfigurationDoc());
