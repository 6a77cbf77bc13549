/** Makes the contract's calls until the two sides differ: what the planted-bugs drill starts in its scratch copy. */

import { contractClock, runContract } from '@milkrun/simulation';
import { createDatabase } from '@milkrun/testkit';
import { openWorkerDb } from '@milkrun/workerdb';

const [server = '', seeds = '1', steps = '40', patienceMs = '60000'] = process.argv.slice(2);
const url = await createDatabase(server);
const first = await openWorkerDb({ url, connections: 1 });
await first.sql.unsafe(contractClock(new URL(url).pathname.slice(1)));
await first.close();
const db = await openWorkerDb({ url, connections: 2, migrate: false });
const until = performance.now() + Number(patienceMs);
let found: { readonly seeds: number; readonly finding: string } | undefined;
let tried = 0;
for (let seed = 1; seed <= Number(seeds) && found === undefined && performance.now() < until; seed += 1) {
  tried += 1;
  await runContract(db, seed, Number(steps)).catch((error: unknown) => {
    found = { seeds: tried, finding: String(error).slice(0, 300) };
  });
}
process.stdout.write(`${JSON.stringify({ seeds: tried, ...found })}\n`, () => process.exit());
