/** The few things every page is made of. All text is text: no part takes markup. */
import { type ComponentChildren, Fragment } from 'preact';
import { useEffect, useId, useRef, useState } from 'preact/hooks';
import type { ApiError } from '../api.ts';
import { relative, when } from '../format.ts';

export type Tone = 'good' | 'warn' | 'bad' | 'info' | 'quiet';

export function Badge({ tone, children }: { tone: Tone; children: ComponentChildren }) {
  return <span class={`badge ${tone}`}>{children}</span>;
}

export function Page(props: {
  title: string;
  lead?: ComponentChildren;
  back?: { href: string; text: string };
  actions?: ComponentChildren;
  children: ComponentChildren;
}) {
  const { title, lead, back, actions, children } = props;
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    document.title = `${title} · Milkrun`;
  }, [title]);
  // A new page is told to whoever cannot see it; nothing moves for the rest.
  useEffect(() => heading.current?.focus({ preventScroll: true }), []);
  return (
    <>
      {back === undefined ? null : (
        <a class="back" href={back.href}>
          ‹ {back.text}
        </a>
      )}
      <div class="page-head">
        <div>
          <h1 tabIndex={-1} ref={heading}>
            {title}
          </h1>
          {lead === undefined ? null : <p class="lead">{lead}</p>}
        </div>
        {actions === undefined ? null : <div class="actions">{actions}</div>}
      </div>
      {children}
    </>
  );
}

export function Section({
  title,
  note,
  children,
}: {
  title: string;
  note?: ComponentChildren;
  children: ComponentChildren;
}) {
  const id = useId();
  return (
    <section aria-labelledby={id}>
      <div class="section-head">
        <h2 id={id}>{title}</h2>
        {note === undefined ? null : <span class="note">{note}</span>}
      </div>
      {children}
    </section>
  );
}

export function Tile(props: { name: string; value: string; hint?: string; tone?: Tone; href?: string }) {
  const { name, value, hint, tone, href } = props;
  return (
    <div class={`tile ${tone ?? ''}`}>
      <dt>{href === undefined ? name : <a href={href}>{name}</a>}</dt>
      <dd>
        {value}
        {hint === undefined ? null : <small>{hint}</small>}
      </dd>
    </div>
  );
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <strong>{title}</strong>
      {children === undefined ? null : <p>{children}</p>}
    </div>
  );
}

/** Why there is nothing to see, or why what is seen may be old. */
export function ProblemNote({ problem, stale = false }: { problem: ApiError | undefined; stale?: boolean }) {
  if (problem === undefined) return null;
  const text = problem.status === 403 ? `${problem.message} Sign in with a key that has it.` : problem.message;
  return (
    <div class="problem" role="alert">
      <strong>{stale ? 'What you see may be old.' : 'This could not be read.'}</strong> {text}
    </div>
  );
}

export function Loading() {
  return (
    <div class="loading" role="status">
      Loading …
    </div>
  );
}

/** A time as people say it, with the exact one on hover. */
export function Ago({ at }: { at: string | null | undefined }) {
  if (at === null || at === undefined) return <span class="dim">–</span>;
  return (
    <time title={when(at)} dateTime={at}>
      {relative(at, Date.now())}
    </time>
  );
}

export interface Column<T> {
  readonly name: string;
  readonly cell: (row: T) => ComponentChildren;
  readonly numeric?: boolean;
  /** Takes the room that is left. */
  readonly wide?: boolean;
}

/** On a phone each row is a card, its cells named. Roles are said, because a table laid out otherwise loses them. */
export function Table<T>(props: {
  label: string;
  rows: readonly T[];
  columns: readonly Column<T>[];
  rowKey: (row: T) => string;
}) {
  const { label, rows, columns, rowKey } = props;
  const classOf = ({ numeric, wide }: Column<T>): string => [numeric ? 'num' : '', wide ? 'wide' : ''].join(' ').trim();
  return (
    <div class="table-box">
      <table role="table" aria-label={label}>
        <thead role="rowgroup">
          <tr role="row">
            {columns.map((column) => (
              <th key={column.name} role="columnheader" scope="col" class={classOf(column)}>
                {column.name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody role="rowgroup">
          {rows.map((row) => (
            <tr key={rowKey(row)} role="row">
              {columns.map((column) => (
                <td key={column.name} role="cell" data-label={column.name} class={classOf(column)}>
                  <span class="cell">{column.cell(row)}</span>
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

export function Facts({ facts }: { facts: readonly (readonly [name: string, value: ComponentChildren])[] }) {
  return (
    <dl class="facts">
      {facts.map(([name, value]) => (
        <Fragment key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </Fragment>
      ))}
    </dl>
  );
}

export function Pager(props: {
  first: boolean;
  next: string | null | undefined;
  onFirst: () => void;
  onNext: () => void;
  shown: number;
}) {
  const { first, next, onFirst, onNext, shown } = props;
  if (first && (next === null || next === undefined)) return null;
  return (
    <nav class="pager" aria-label="Pages">
      <button type="button" onClick={onFirst} disabled={first}>
        Newest
      </button>
      <span class="note">{shown} shown</span>
      <button type="button" onClick={onNext} disabled={next === null || next === undefined}>
        Older
      </button>
    </nav>
  );
}

/** Choices of which one is on. */
export function Choice<T extends string>(props: {
  label: string;
  options: readonly (readonly [value: T, text: string])[];
  value: T;
  onChange: (value: T) => void;
}) {
  const { label, options, value, onChange } = props;
  return (
    <div class="choice" role="group" aria-label={label}>
      {options.map(([option, text]) => (
        <button key={option} type="button" aria-pressed={option === value} onClick={() => onChange(option)}>
          {text}
        </button>
      ))}
    </div>
  );
}

/** A button that does something on the server: off while it does, and its answer, good or not, is said. */
export function Action(props: {
  children: ComponentChildren;
  /** Asked before; without it, nothing is. */
  confirm?: string;
  tone?: 'primary' | 'danger';
  act: () => Promise<unknown>;
}) {
  const { children, confirm: question, tone, act } = props;
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<string>();
  const [asking, setAsking] = useState(false);
  const go = async (): Promise<void> => {
    setAsking(false);
    setBusy(true);
    setProblem(undefined);
    try {
      await act();
    } catch (error) {
      setProblem((error as Error).message);
    }
    setBusy(false);
  };
  return (
    <span class="action">
      {asking ? (
        <span class="confirm" role="group" aria-label="Confirm">
          {question}{' '}
          <button type="button" class={tone ?? 'primary'} onClick={go}>
            Yes
          </button>
          <button type="button" onClick={() => setAsking(false)}>
            No
          </button>
        </span>
      ) : (
        <button
          type="button"
          class={tone ?? ''}
          disabled={busy}
          onClick={question === undefined ? go : () => setAsking(true)}
        >
          {children}
        </button>
      )}
      {problem === undefined ? null : (
        <span class="action-problem" role="alert">
          {problem}
        </span>
      )}
    </span>
  );
}

export function Progress({ label, value, max }: { label: string; value: number; max: number }) {
  return (
    <div class="progress">
      <progress aria-label={label} value={value} max={Math.max(1, max)} />
      <span class="note">{max === 0 ? '0 %' : `${Math.floor((100 * value) / max)} %`}</span>
    </div>
  );
}

/** Text as it came, such as a payload: scrolls by itself, also with the keyboard. */
export function Raw({ label, text }: { label: string; text: string }) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard
    <pre role="region" aria-label={label} tabIndex={0}>
      {text}
    </pre>
  );
}
