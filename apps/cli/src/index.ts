export { createContext } from './context.ts';
export { EXIT, type ExitCode } from './exit-codes.ts';
export { type Io, processIo } from './io.ts';
export { createProgram, runCli } from './program.ts';
export { servePart } from './serve.ts';
