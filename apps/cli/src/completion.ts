/** Shell completion, written from the tree of commands, so that a verb or an option can not be forgotten. */
import type { Command, Option } from 'commander';

export const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

interface Flag {
  readonly name: string;
  readonly about: string;
  /** Takes a value. */
  readonly valued: boolean;
  /** What the value may be, where that is a closed list. */
  readonly choices: readonly string[];
  /** The value is a file or a folder. */
  readonly isPath: boolean;
}

/** One command of the tree, by the words that lead to it. */
interface Place {
  readonly path: string;
  readonly verbs: readonly { readonly name: string; readonly about: string }[];
  readonly flags: readonly Flag[];
  /** Words its first argument may be. */
  readonly words: readonly string[];
  /** Its arguments are files or folders. */
  readonly takesPaths: boolean;
}

const WRITERS: Readonly<Record<Shell, (places: readonly Place[]) => string>> = { bash, zsh, fish };

/** The script for `shell`; it is read by the shell itself, and asks nobody. */
export function completionScript(program: Command, shell: Shell): string {
  return WRITERS[shell](placesOf(program, ''));
}

const isPath = (name: string): boolean => ['file', 'folder'].includes(name);
/** The first sentence or clause, as one line without what a shell's quotes would end at. */
const brief = (text: string): string => (text.split(/[;:\n]/)[0] ?? '').replaceAll(/['"`\\$]/g, '’').trim();

function placesOf(command: Command, path: string): Place[] {
  const shown = command.createHelp().visibleCommands(command);
  const verbs = shown.filter((one) => one.name() !== 'help');
  const [first] = command.registeredArguments;
  const flags = command.createHelp().visibleOptions(command).map(flagOf);
  const place: Place = {
    path,
    verbs: verbs.map((verb) => ({ name: verb.name(), about: brief(verb.description()) })),
    flags,
    words: first?.argChoices ?? [],
    takesPaths: first !== undefined && isPath(first.name()),
  };
  const below = verbs.flatMap((verb) => [verb.name(), ...verb.aliases()].map((name) => ({ verb, name })));
  return [place, ...below.flatMap(({ verb, name }) => placesOf(verb, `${path} ${name}`.trim()))];
}

function flagOf(option: Option): Flag {
  const [, value = ''] = /<([^>]+)>/.exec(option.flags) ?? [];
  return {
    name: option.long ?? option.flags,
    about: brief(option.description),
    valued: value !== '',
    choices: option.argChoices ?? [],
    isPath: isPath(value),
  };
}

/** `'a b'|'c d'`, for a case of bash or zsh. */
const pattern = (texts: readonly string[]): string => texts.map((text) => `'${text}'`).join('|');

const HINT: Readonly<Record<Shell, string>> = {
  bash: 'source <(milkrun completion bash), for good in ~/.bashrc',
  zsh: 'source <(milkrun completion zsh) after compinit, for good in ~/.zshrc',
  fish: 'milkrun completion fish | source, for good in ~/.config/fish/completions/milkrun.fish',
};
const head = (shell: Shell): string => `# Completion of milkrun for ${shell}: ${HINT[shell]}.\n`;

const knownPaths = (places: readonly Place[]): string[] => places.map(({ path }) => path).filter((path) => path !== '');
/** Options with a value, as `path:--flag`: what follows them is no verb. */
const valued = (places: readonly Place[]): { at: string; flag: Flag }[] =>
  places.flatMap(({ path, flags }) =>
    flags.filter((flag) => flag.valued).map((flag) => ({ at: `${path}:${flag.name}`, flag })),
  );

function bash(places: readonly Place[]): string {
  const values = valued(places).map(({ at, flag }) => `    '${at}') words='${flag.choices.join(' ')}' ;;`);
  const cases = places.map(({ path, verbs, flags, words }) => {
    const names = [...verbs.map(({ name }) => name), ...words];
    return `      '${path}') words='${names.join(' ')}'; flags='${flags.map(({ name }) => name).join(' ')}' ;;`;
  });
  return `${head('bash')}_milkrun() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} at='' words='' flags='' word
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "\${at:+$at }$word" in
      ${pattern(knownPaths(places))}) at="\${at:+$at }$word" ;;
    esac
  done
  case "$at:$prev" in
${values.join('\n')}
    *) case "$at" in
${cases.join('\n')}
    esac
    [[ $cur == -* ]] && words=$flags ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o default -F _milkrun milkrun
`;
}

function zsh(places: readonly Place[]): string {
  const described = (items: readonly { name: string; about: string }[]): string =>
    items.map(({ name, about }) => `'${name}:${about}'`).join(' ');
  const values = valued(places).map(({ at, flag }) => {
    const complete = flag.choices.length > 0 ? `compadd -- ${flag.choices.join(' ')}` : flag.isPath ? '_files' : ':';
    return `    '${at}') ${complete}; return ;;`;
  });
  const cases = places.map(({ path, verbs, flags, words, takesPaths }) => {
    const items = [...verbs, ...words.map((name) => ({ name, about: '' }))];
    const files = takesPaths ? '; files=1' : '';
    return `    '${path}') verbs=(${described(items)}); flags=(${described(flags)})${files} ;;`;
  });
  return `#compdef milkrun
${head('zsh')}_milkrun() {
  local at='' word files=0
  local -a verbs flags
  for word in "\${(@)words[2,CURRENT-1]}"; do
    case "\${at:+$at }$word" in
      ${pattern(knownPaths(places))}) at="\${at:+$at }$word" ;;
    esac
  done
  case "$at:\${words[CURRENT-1]}" in
${values.join('\n')}
  esac
  case "$at" in
${cases.join('\n')}
  esac
  if [[ \${words[CURRENT]} == -* ]]; then
    _describe -o option flags
  elif (( \${#verbs} )); then
    _describe command verbs
  elif (( files )); then
    _files
  fi
}
if [[ \${funcstack[1]} == _milkrun ]]; then _milkrun "$@"; else compdef _milkrun milkrun; fi
`;
}

function fish(places: readonly Place[]): string {
  const lines = places.flatMap(({ path, verbs, flags, words, takesPaths }) => {
    const when = `complete -c milkrun -n '__milkrun_at "${path}"'`;
    return [
      ...verbs.map(({ name, about }) => `${when} -a ${name} -d '${about}'`),
      ...(words.length > 0 ? [`${when} -a '${words.join(' ')}'`] : []),
      ...(takesPaths ? [`${when} -F`] : []),
      ...flags.map((flag) => {
        const value = flag.choices.length > 0 ? ` -x -a '${flag.choices.join(' ')}'` : flag.isPath ? ' -r -F' : ' -x';
        return `${when} -l ${flag.name.slice(2)}${flag.valued ? value : ''} -d '${flag.about}'`;
      }),
    ];
  });
  return `${head('fish')}function __milkrun_at
  set -l at
  for word in (commandline -opc)[2..]
    if contains -- (string join ' ' $at $word) ${knownPaths(places)
      .map((path) => `'${path}'`)
      .join(' ')}
      set -a at $word
    end
  end
  test "$at" = "$argv[1]"
end
complete -c milkrun -f
${lines.join('\n')}
`;
}
