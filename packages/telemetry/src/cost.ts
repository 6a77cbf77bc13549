/** What a million polls cost at list prices: an order of magnitude for a dashboard, not a bill. */

/** US dollars; public list prices, us-east-1, without free tiers and discounts. */
export interface Prices {
  readonly perMillionActions: number;
  readonly perMillionInvocations: number;
  readonly perGbSecond: number;
  readonly perThousandPuts: number;
}

export const LIST_PRICES: Prices = Object.freeze({
  perMillionActions: 50,
  perMillionInvocations: 0.2,
  perGbSecond: 0.0000166667,
  perThousandPuts: 0.005,
});

export interface CostInput {
  readonly polls: number;
  readonly actions: number;
  readonly puts: number;
  readonly invocations: number;
  /** Seconds all invocations took together. */
  readonly invocationSeconds: number;
  /** Memory of the poll function; default 0.25 GB. */
  readonly functionGb?: number;
}

export interface CostEstimate {
  readonly temporal: number;
  readonly poll_function: number;
  readonly object_store: number;
  readonly total: number;
}

/** US dollars per million polls by part; undefined while nothing has been polled. */
export function costPerMillionPolls(input: CostInput, prices: Prices = LIST_PRICES): CostEstimate | undefined {
  if (input.polls <= 0) return undefined;
  const scale = 1_000_000 / input.polls;
  const temporal = (input.actions / 1_000_000) * prices.perMillionActions * scale;
  const compute = input.invocationSeconds * (input.functionGb ?? 0.25) * prices.perGbSecond;
  const pollFunction = ((input.invocations / 1_000_000) * prices.perMillionInvocations + compute) * scale;
  const objectStore = (input.puts / 1000) * prices.perThousandPuts * scale;
  return {
    temporal,
    poll_function: pollFunction,
    object_store: objectStore,
    total: temporal + pollFunction + objectStore,
  };
}
