export type { BreakerOptions } from './breaker.ts';
export { type ByteBudget, createByteBudget } from './byte-budget.ts';
export { type Credentials, type CredentialsProvider, defaultCredentials, LOCAL_CREDENTIALS } from './credentials.ts';
export {
  type InvokeContext,
  type InvokeHandler,
  type InvokeServer,
  type InvokeServerOptions,
  type LocalFunction,
  startInvokeServer,
} from './invoke-server.ts';
export { createPollRunner, type LambdaPollRunner, type PollRunnerOptions } from './poll-runner.ts';
export { createSigner, type Signer, type SignRequest } from './signer.ts';
