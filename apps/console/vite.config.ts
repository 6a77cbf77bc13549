/** Builds the console: one page, one script, one style, each also compressed, because the API serves files as they are. */
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { brotliCompressSync, gzipSync } from 'node:zlib';
import { defineConfig, type Plugin } from 'vite';

const compressed: Plugin = {
  name: 'compressed',
  async writeBundle({ dir = '' }) {
    const assets = join(dir, 'assets');
    for (const file of await readdir(assets)) {
      const content = await readFile(join(assets, file));
      await writeFile(join(assets, `${file}.br`), brotliCompressSync(content));
      await writeFile(join(assets, `${file}.gz`), gzipSync(content, { level: 9 }));
    }
  },
};

export default defineConfig({
  // Inlined files would be refused by the page's own policy.
  build: { target: 'es2022', assetsInlineLimit: 0, modulePreload: { polyfill: false }, reportCompressedSize: false },
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  plugins: [compressed],
  logLevel: 'warn',
});
