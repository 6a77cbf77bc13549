/** The workflow's own time. Inside the sandbox `Date` is the SDK's: it is replayed, never read from the machine. */

/** Milliseconds since the epoch, as of the current workflow task. */
export function workflowNow(): number {
  return Date.now();
}
