/** Chromium under our control: found, started, and every page watched for errors, refusals of its policy and bytes. */
import { existsSync } from 'node:fs';
import { type Browser, chromium, type Page } from 'playwright-core';

const PLACES = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];

/** Throws an Error that says how to install one. */
export async function startBrowser(): Promise<Browser> {
  const given = process.env.CHROMIUM_PATH;
  const executablePath = given ?? PLACES.find((place) => existsSync(place));
  if (executablePath === undefined || !existsSync(executablePath)) {
    throw new Error(
      `there is no Chromium${given === undefined ? '' : ` at CHROMIUM_PATH (${given})`}: ` +
        'apt-get install -y chromium (or your system’s package of that name), or set CHROMIUM_PATH to the binary',
    );
  }
  return await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-dev-shm-usage'] });
}

export interface Watched {
  readonly consoleErrors: string[];
  readonly policyViolations: string[];
  /** Bytes of scripts on the wire, by address. */
  readonly scriptBytes: Map<string, number>;
  /** Addresses asked for that are not the origin's. */
  readonly foreign: string[];
}

/** Watches a page from before its first request. */
export async function watch(page: Page, origin: string): Promise<Watched> {
  const seen: Watched = { consoleErrors: [], policyViolations: [], scriptBytes: new Map(), foreign: [] };
  page.on('console', (message) => {
    const text = message.text();
    if (/Content Security Policy|Trusted/i.test(text)) seen.policyViolations.push(text);
    else if (message.type() === 'error') seen.consoleErrors.push(text);
  });
  page.on('pageerror', (error) => seen.consoleErrors.push(String(error)));
  page.on('request', (request) => {
    if (!request.url().startsWith(`${origin}/`)) seen.foreign.push(request.url());
  });
  page.on('response', async (response) => {
    if (response.request().resourceType() !== 'script') return;
    const sizes = await response
      .request()
      .sizes()
      .catch(() => undefined);
    // From the cache it costs nothing; what counts is what it cost once.
    const before = seen.scriptBytes.get(response.url()) ?? 0;
    if (sizes !== undefined) seen.scriptBytes.set(response.url(), Math.max(before, sizes.responseBodySize));
  });
  return seen;
}
