/** The built console: small, and nothing in it that its own policy would refuse. */
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { build } from 'vite';
import { expect, it } from 'vitest';

it('is one page without inline script or style, with at most 120 kB of compressed script, and no foreign address', async () => {
  const outDir = await mkdtemp(join(tmpdir(), 'milkrun-console-build-'));
  try {
    await build({ root: fileURLToPath(new URL('..', import.meta.url)), build: { outDir, emptyOutDir: true } });
    const page = await readFile(join(outDir, 'index.html'), 'utf8');
    expect(page).not.toMatch(/<style|style="|\son\w+="|<script(?![^>]*\ssrc=)/);
    const files = await readdir(join(outDir, 'assets'));
    const scripts = files.filter((file) => file.endsWith('.js'));
    expect(scripts.length).toBeGreaterThan(0);
    let bytes = 0;
    for (const file of scripts) {
      const text = await readFile(join(outDir, 'assets', file));
      bytes += gzipSync(text, { level: 9 }).length;
      expect(files).toEqual(expect.arrayContaining([`${file}.gz`, `${file}.br`]));
    }
    expect(bytes).toBeLessThanOrEqual(120_000);
    for (const source of page.match(/(src|href)="[^"]+"/g) ?? []) expect(source).toMatch(/="\/assets\/[\w-]+\.\w+"/);
  } finally {
    await rm(outDir, { recursive: true, force: true });
  }
});
