/**
 * How long a test waits for a fact, for `vi.waitFor`. Only a fault reaches the bound: a test ends with the fact, and a machine
 * that is busy with other tests is slow, not wrong.
 */
export const PATIENCE = Object.freeze({ timeout: 90_000, interval: 20 });
