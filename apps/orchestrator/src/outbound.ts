/** HTTP to addresses that definitions name: under the address guard, with bounded answers and one time-out for the whole. */
import { OutboundFailed, type OutboundHttp } from '@milkrun/activity-core';
import { AddressRefused, guardedDispatcher } from '@milkrun/connectors';
import { request } from 'undici';

/** `allow`: hosts, addresses and ranges inside that may be called, as in OUTBOUND_ALLOW. */
export function createOutbound(allow: readonly string[]): OutboundHttp & { close(): Promise<void> } {
  const dispatcher = guardedDispatcher(allow);
  return {
    async send({ url, method, headers, body, timeoutMs, answerBytesMax, signal }) {
      try {
        const response = await request(url, {
          dispatcher,
          method: method as 'GET',
          headers: { 'user-agent': 'milkrun', ...headers },
          body,
          signal: AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]),
        });
        const chunks: Buffer[] = [];
        let bytes = 0;
        for await (const chunk of response.body) {
          bytes += chunk.length;
          if (bytes > answerBytesMax) {
            response.body.destroy();
            throw new OutboundFailed(`the answer exceeds ${answerBytesMax} bytes`, false);
          }
          chunks.push(chunk);
        }
        const header = (name: string): string | undefined => {
          const value = response.headers[name];
          return Array.isArray(value) ? value[0] : value;
        };
        return { status: response.statusCode, header, body: Buffer.concat(chunks) };
      } catch (error) {
        if (signal.aborted || error instanceof OutboundFailed) throw error;
        throw failureOf(error);
      }
    },
    close: () => dispatcher.close(),
  };
}

function failureOf(error: unknown): OutboundFailed {
  const refused = [error, error instanceof Error ? error.cause : undefined].find(
    (each) => each instanceof AddressRefused,
  );
  if (refused instanceof AddressRefused) return new OutboundFailed(refused.message, false, { cause: error });
  const code =
    error instanceof Error && 'code' in error
      ? String(error.code)
      : error instanceof Error
        ? error.message
        : String(error);
  return new OutboundFailed(`could not be reached: ${code}`, true, { cause: error });
}
