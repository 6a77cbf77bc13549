/**
 * POLL_FUNCTION as paths of the Invoke API: a name or ARN, with an alias if wanted, in which `{toolkit}` stands for the
 * trigger's toolkit. The whole is one URL-encoded segment.
 */
const TOOLKIT = '{toolkit}';
/** What Lambda takes as a name, partial ARN or ARN with a qualifier. */
const FUNCTION_NAME = /^[A-Za-z0-9$_:-][A-Za-z0-9$_:.-]{0,169}$/;
/** What may stand in for `{toolkit}`: nothing that reaches another function's qualifier or account. */
const TOOLKIT_NAME = /^[A-Za-z0-9_-]{1,64}$/;
const PATHS_KEPT = 10_000;

export interface FunctionPaths {
  /** Path of the function's invocations, or undefined for a toolkit that cannot be part of a name. */
  invocations(toolkit: string): string | undefined;
  configuration(toolkit: string): string | undefined;
}

/** Throws RangeError for a name that Lambda would not take. */
export function functionPathsOf(functionName: string): FunctionPaths {
  if (!FUNCTION_NAME.test(functionName.replaceAll(TOOLKIT, 'toolkit'))) {
    throw new RangeError(`POLL_FUNCTION "${functionName}" is no function name or ARN`);
  }
  const perToolkit = functionName.includes(TOOLKIT);
  const bases = new Map<string, string>();

  const baseOf = (toolkit: string): string | undefined => {
    const key = perToolkit ? toolkit : '';
    let base = bases.get(key);
    if (base === undefined) {
      if (perToolkit && !TOOLKIT_NAME.test(toolkit)) return undefined;
      base = `/2015-03-31/functions/${encodeURIComponent(functionName.replaceAll(TOOLKIT, toolkit))}`;
      if (bases.size >= PATHS_KEPT) bases.clear();
      bases.set(key, base);
    }
    return base;
  };
  const invocations = new Map<string, string>();

  return {
    invocations(toolkit) {
      const base = baseOf(toolkit);
      if (base === undefined) return undefined;
      let path = invocations.get(base);
      if (path === undefined) {
        path = `${base}/invocations`;
        if (invocations.size >= PATHS_KEPT) invocations.clear();
        invocations.set(base, path);
      }
      return path;
    },
    configuration(toolkit) {
      const base = baseOf(toolkit);
      return base === undefined ? undefined : `${base}/configuration`;
    },
  };
}
