/** Renders docs/scoreboard.md from the recorded runs again: for instance after a merge of two recordings. */
import { writeFileSync } from 'node:fs';
import { renderScoreboard } from '../drills/lib/scoreboard.ts';

const results = new URL('../drills/results/', import.meta.url);
writeFileSync(new URL('../docs/scoreboard.md', import.meta.url), renderScoreboard(results));
