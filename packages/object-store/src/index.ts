export { createObjectStore, type ObjectStoreOptions, type OpenedObjectStore } from './create.ts';
export { createFsObjectStore, type FsObjectStore, type SweepResult } from './fs.ts';
export { InvalidObjectKey } from './keys.ts';
export { createMemoryObjectStore } from './memory.ts';
export { UnsafeObjectStore } from './probe.ts';
export {
  InvalidObjectStoreSetting,
  OBJECT_STORE_FORMS,
  type ObjectStoreSetting,
  parseObjectStoreSetting,
  type S3Setting,
} from './setting.ts';
