/** Every failure as problem+json (RFC 9457): fixed shape, the field's path and what is accepted, nothing from inside. */
import type { Log } from '@milkrun/core';
import { type ProblemKind, RegistryProblem, sqlStateOf } from '@milkrun/registrydb';
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';

export interface FieldError {
  /** Such as `poll.dedupe`; empty for the body as a whole. */
  readonly path: string;
  readonly message: string;
}

/** A refusal with its status; `errors` names the fields. */
export class Problem extends Error {
  override readonly name = 'Problem';
  readonly status: number;
  readonly errors: readonly FieldError[];

  constructor(status: number, detail: string, errors: readonly FieldError[] = []) {
    super(detail);
    this.status = status;
    this.errors = errors;
  }
}

const TITLES: Readonly<Record<number, string>> = {
  400: 'The request is not valid',
  401: 'A valid key is needed',
  403: 'The key does not allow this',
  404: 'Not found',
  409: 'Conflict',
  410: 'The cursor has expired',
  412: 'Changed in between',
  413: 'Too large',
  415: 'Unsupported media type',
  422: 'Cannot be done',
  429: 'Too many requests',
  502: 'The engine gave no usable answer',
  503: 'Not available now',
};

const STATUS_OF: Readonly<Record<ProblemKind, number>> = {
  not_found: 404,
  conflict: 409,
  precondition_failed: 412,
  invalid: 422,
};

export function sendProblem(
  reply: FastifyReply,
  status: number,
  detail: string,
  errors: readonly FieldError[] = [],
): FastifyReply {
  const title = TITLES[status] ?? (status >= 500 ? 'Internal error' : 'Refused');
  const body = { type: 'about:blank', title, status, detail, ...(errors.length === 0 ? {} : { errors }) };
  // Serialized here: a refusal must not run into the schema of the answer it replaces.
  return reply
    .code(status)
    .type('application/problem+json')
    .serializer((value: unknown) => JSON.stringify(value))
    .send(body);
}

/** The one place that turns an exception into an answer. What nobody expected is logged and told in general words. */
export function createErrorHandler(log: Log) {
  return (error: FastifyError | Error, request: FastifyRequest, reply: FastifyReply): FastifyReply => {
    if (error instanceof Problem) return sendProblem(reply, error.status, error.message, error.errors);
    if (error instanceof RegistryProblem) {
      const errors = error.field === undefined ? [] : [{ path: error.field, message: error.message }];
      return sendProblem(reply, STATUS_OF[error.kind], error.message, errors);
    }
    const status = (error as FastifyError).statusCode;
    if (status !== undefined && status >= 400 && status < 500) return sendProblem(reply, status, error.message);
    const state = sqlStateOf(error);
    if (state?.startsWith('22')) return sendProblem(reply, 400, 'A value cannot be stored.');
    const unavailable = state?.startsWith('08') || state?.startsWith('57') || isConnectionLost(error);
    log.error(
      {
        requestId: request.id,
        route: request.routeOptions.url,
        error: error.name,
        message: error.message,
        sqlState: state,
      },
      'request.failed',
    );
    if (unavailable) return sendProblem(reply.header('retry-after', '5'), 503, 'The database cannot be reached.');
    return sendProblem(reply, 500, `Something went wrong; the log knows it as ${request.id}.`);
  };
}

function isConnectionLost(error: unknown): boolean {
  for (let at = error; typeof at === 'object' && at !== null; at = (at as { cause?: unknown }).cause) {
    const { code } = at as { code?: unknown };
    if (typeof code === 'string' && /^(CONNECT|CONNECTION_|ECONN|ETIMEDOUT|ENOTFOUND|EPIPE)/.test(code)) return true;
  }
  return false;
}
