/** The object store's contents: what was written once, and what damage the run did to it. */
export class ModelObjects {
  /** By the first two parts of their keys, `batches/{batch id}`: what is listed is one batch's. */
  private readonly folders = new Map<string, Map<string, Uint8Array>>();

  put(key: string, body: Uint8Array): 'created' | 'exists' {
    const folder = this.folderOf(key);
    if (folder.has(key)) return 'exists';
    folder.set(key, Uint8Array.from(body));
    return 'created';
  }

  get(key: string): Uint8Array | undefined {
    const body = this.folderOf(key).get(key);
    return body === undefined ? undefined : Uint8Array.from(body);
  }

  /** The prefix names a batch at the least. */
  list(prefix: string): string[] {
    return [...this.folderOf(prefix).keys()].filter((key) => key.startsWith(prefix)).sort();
  }

  all(): string[] {
    return [...this.folders.values()].flatMap((folder) => [...folder.keys()]);
  }

  remove(key: string): void {
    this.folderOf(key).delete(key);
  }

  /** Replaces stored bytes, as a broken disk or a stranger does. */
  damage(key: string, body: Uint8Array): void {
    this.folderOf(key).set(key, body);
  }

  private folderOf(key: string): Map<string, Uint8Array> {
    const name = key.split('/', 2).join('/');
    let folder = this.folders.get(name);
    if (folder === undefined) {
      folder = new Map();
      this.folders.set(name, folder);
    }
    return folder;
  }
}
