/**
 * A frontend before a real Temporal server that does what the server will not do on demand: deny calls, be slow, lose
 * an answer after the server has acted on the call, hand out the same task twice, vanish and come back.
 *
 * It passes bytes, not messages: what it does not disturb reaches either side unchanged.
 */
import {
  type ClientUnaryCall,
  credentials,
  type Deadline,
  Client as GrpcClient,
  type Metadata,
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServiceError,
  type sendUnaryData,
  status,
} from '@grpc/grpc-js';
import proto from '@temporalio/proto';

/** Of WorkflowService, as the SDK calls them. */
export type FrontendMethod =
  | 'pollActivityTaskQueue'
  | 'pollWorkflowTaskQueue'
  | 'respondActivityTaskCompleted'
  | 'respondWorkflowTaskCompleted';

/**
 * What happens to one call.
 * - `pass`: nothing.
 * - `deny`: answered with `code` (a gRPC status), never forwarded.
 * - `lose`: forwarded; the answer is replaced by UNAVAILABLE.
 * - `hold`: forwarded; the answer waits for `until`.
 * - `repeat`: answered with this method's last answer that was not empty; passed when there is none.
 */
export type FrontendVerdict =
  | { readonly do: 'pass' | 'lose' | 'repeat' }
  | { readonly do: 'deny'; readonly code: status; readonly details?: string }
  | { readonly do: 'hold'; readonly until: Promise<unknown> };

export interface TemporalFrontend {
  /** `host:port`; the same after `comeBack`. */
  readonly address: string;
  /** Decides about each call of a method from now on; without a rule all pass. `n` counts the method's calls from 1. */
  rule(method: FrontendMethod, verdict: (n: number) => FrontendVerdict): void;
  /** Answers the method's open calls with UNAVAILABLE, so that long polls come again and meet the rule. */
  cut(method: FrontendMethod): void;
  /** Every call passes again. */
  calm(): void;
  /** Calls of a method seen so far. */
  calls(method: FrontendMethod): number;
  /** Closes every connection at once and refuses new ones. */
  vanish(): void;
  comeBack(): Promise<void>;
  stop(): Promise<void>;
}

/** At run time the class is protobufjs's description of the service; Node finds no names in that package but the default. */
const { WorkflowService } = proto.temporal.api.workflowservice.v1;
const { methods } = WorkflowService as unknown as { methods: Record<string, unknown> };
const SERVICE = 'temporal.api.workflowservice.v1.WorkflowService';
const HEALTH = '/grpc.health.v1.Health/Check';
/** An answer without a task is a few bytes or none. */
const EMPTY_BYTES = 16;
const UNLIMITED = { 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 };

const same = (bytes: Buffer): Buffer => bytes;

/** Starts one on a free port of 127.0.0.1. `upstream` is `host:port` of the real server. */
export async function startTemporalFrontend(upstream: string): Promise<TemporalFrontend> {
  const client = new GrpcClient(upstream, credentials.createInsecure(), UNLIMITED);
  const rules = new Map<string, (n: number) => FrontendVerdict>();
  const counts = new Map<string, number>();
  const lastAnswers = new Map<string, Buffer>();
  const open = new Map<string, Set<() => void>>();
  let server = new Server(UNLIMITED);
  let port = 0;

  function forward(
    path: string,
    call: ServerUnaryCall<Buffer, Buffer>,
    answer: (error: ServiceError | null, bytes: Buffer | undefined, trailer: Metadata | undefined) => void,
  ): ClientUnaryCall {
    let trailer: Metadata | undefined;
    const deadline: Deadline = call.getDeadline();
    const made = client.makeUnaryRequest(path, same, same, call.request, call.metadata, { deadline }, (error, bytes) =>
      answer(error, bytes, trailer),
    );
    made.on('status', ({ metadata }) => {
      trailer = metadata;
    });
    call.on('cancelled', () => made.cancel());
    return made;
  }

  function openOf(method: string): Set<() => void> {
    const calls = open.get(method) ?? new Set();
    open.set(method, calls);
    return calls;
  }

  function handle(method: string, path: string) {
    return (call: ServerUnaryCall<Buffer, Buffer>, callback: sendUnaryData<Buffer>): void => {
      const n = (counts.get(method) ?? 0) + 1;
      counts.set(method, n);
      const verdict = rules.get(method)?.(n) ?? { do: 'pass' };
      if (verdict.do === 'deny') {
        callback({ code: verdict.code, details: verdict.details ?? `${method} is denied` });
        return;
      }
      const repeated = verdict.do === 'repeat' ? lastAnswers.get(method) : undefined;
      if (repeated !== undefined) {
        callback(null, repeated);
        return;
      }
      const made = forward(path, call, (error, bytes, trailer) => {
        if (!openOf(method).delete(cut)) return;
        if (verdict.do === 'lose') {
          callback({ code: status.UNAVAILABLE, details: `the answer to ${method} is lost` });
          return;
        }
        const deliver = (): void => {
          if (error !== null) callback({ code: error.code, details: error.details, metadata: error.metadata });
          else callback(null, bytes ?? null, trailer);
        };
        if (bytes !== undefined && bytes.length > EMPTY_BYTES) lastAnswers.set(method, bytes);
        if (verdict.do === 'hold') verdict.until.then(deliver, deliver);
        else deliver();
      });
      const cut = (): void => {
        openOf(method).delete(cut);
        made.cancel();
        callback({ code: status.UNAVAILABLE, details: `${method} is cut` });
      };
      openOf(method).add(cut);
    };
  }

  async function listen(at: number): Promise<void> {
    server = new Server(UNLIMITED);
    for (const name of Object.keys(methods)) {
      const path = `/${SERVICE}/${name}`;
      server.register(path, handle(name.charAt(0).toLowerCase() + name.slice(1), path), same, same, 'unary');
    }
    server.register(HEALTH, handle('health', HEALTH), same, same, 'unary');
    port = await new Promise<number>((resolve, reject) => {
      server.bindAsync(`127.0.0.1:${at}`, ServerCredentials.createInsecure(), (error, bound) =>
        error === null ? resolve(bound) : reject(error),
      );
    });
  }

  await listen(0);
  return {
    address: `127.0.0.1:${port}`,
    rule: (method, verdict) => void rules.set(method, verdict),
    cut(method) {
      for (const end of [...openOf(method)]) end();
    },
    calm: () => rules.clear(),
    calls: (method) => counts.get(method) ?? 0,
    vanish: () => server.forceShutdown(),
    comeBack: () => listen(port),
    async stop() {
      server.forceShutdown();
      client.close();
    },
  };
}
