/** A line chart over time (uPlot draws it on a canvas); the newest figures stand beside it as text. */
import { useEffect, useRef } from 'preact/hooks';
import UPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';

export interface Line {
  readonly name: string;
  /** Name of the colour in the style sheet, such as `--line-1`. */
  readonly colour: string;
  readonly values: readonly (number | null)[];
}

const HEIGHT = 150;
const dark = matchMedia('(prefers-color-scheme: dark)');

export function Chart(props: {
  title: string;
  at: readonly number[];
  lines: readonly Line[];
  show: (value: number) => string;
}) {
  const { title, at, lines, show } = props;
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<UPlot>(undefined);
  const data = [at, ...lines.map(({ values }) => values)] as unknown as UPlot.AlignedData;
  const latest = useRef(data);
  latest.current = data;

  // The lines of a chart stay the same; only their values change.
  useEffect(() => {
    const element = box.current;
    if (element === null) return;
    const draw = (): void => {
      plot.current?.destroy();
      plot.current = new UPlot(optionsOf(element, lines, show), latest.current, element);
    };
    draw();
    const resized = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height: HEIGHT }));
    resized.observe(element);
    dark.addEventListener('change', draw);
    return () => {
      resized.disconnect();
      dark.removeEventListener('change', draw);
      plot.current?.destroy();
    };
  }, []);
  useEffect(() => plot.current?.setData(data), [at]);

  return (
    <figure class="chart">
      <figcaption>
        <strong>{title}</strong>
        {lines.map(({ name, colour, values }) => (
          <span key={name} class={`legend ${colour.slice(2)}`}>
            {name} <b>{shownValue(values.at(-1), show)}</b>
          </span>
        ))}
      </figcaption>
      <div ref={box} class="plot" aria-hidden="true" />
    </figure>
  );
}

const shownValue = (value: number | null | undefined, show: (value: number) => string): string =>
  value === null || value === undefined ? '–' : show(value);

const clock = (seconds: number): string => new Date(seconds * 1000).toTimeString().slice(0, 8);

function optionsOf(element: HTMLElement, lines: readonly Line[], show: (value: number) => string): UPlot.Options {
  const style = getComputedStyle(element);
  const colour = (name: string): string => style.getPropertyValue(name).trim();
  const axis = {
    stroke: colour('--dim'),
    font: '11px system-ui, sans-serif',
    grid: { stroke: colour('--rule'), width: 1 },
    ticks: { show: false },
  };
  return {
    width: element.clientWidth,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    scales: {
      x: { time: true, range: (_, min, max) => [Math.min(min, max - 60), max] },
      y: { range: (_, __, max) => [0, max > 0 ? max * 1.15 : 1] },
    },
    axes: [
      { ...axis, space: 90, size: 26, values: (_, splits) => splits.map(clock) },
      { ...axis, size: 52, space: 34, values: (_, splits) => splits.map(show) },
    ],
    series: [
      {},
      ...lines.map((line) => ({
        label: line.name,
        stroke: colour(line.colour),
        fill: `${colour(line.colour)}22`,
        width: 2,
        points: { show: false },
        spanGaps: false,
      })),
    ],
  };
}
