/**
 * Seals what Temporal keeps of inputs and results (AES-256-GCM), so that its database and its web interface show none of it.
 *
 * A payload becomes another one: `binary/encrypted`, the id of its key beside it, its data the iv (12 bytes), the
 * ciphertext and the tag (16 bytes) of the payload's protobuf form. What is not sealed is read as it is: histories from
 * before a key was set go on. Not sealed are names, ids, search attributes and the messages of failures, none of which holds
 * a secret.
 */
import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto';
import type { Secret } from '@milkrun/core';
import type { DataConverter, Payload, PayloadCodec } from '@temporalio/common';
import proto from '@temporalio/proto';

const { Payload: PayloadMessage } = proto.temporal.api.common.v1;
const ENCODING = 'binary/encrypted';
const ENCODING_FIELD = 'encoding';
const KEY_FIELD = 'encryption-key-id';
const CIPHER = 'aes-256-gcm';
const IV_BYTES = 12;
const TAG_BYTES = 16;

/** A sealed payload that can not be opened: its key is not among ours, or it is not what was sealed. */
export class PayloadUnreadable extends Error {
  override readonly name = 'PayloadUnreadable';
}

/**
 * For a client or a worker; every process that speaks to Temporal needs the same. `payloadKeys`: base64 of 32 bytes each,
 * separated by commas; the first seals, all open. Without one, the SDK's own converter: payloads stay plain.
 */
export function createDataConverter(payloadKeys: Secret | undefined): DataConverter {
  return payloadKeys === undefined ? {} : { payloadCodecs: [createPayloadCodec(payloadKeys.reveal().split(','))] };
}

export function createPayloadCodec(
  keys: readonly string[],
  random: (bytes: number) => Uint8Array = randomBytes,
): PayloadCodec {
  const ring = new Map(keys.map((text) => [keyIdOf(text), Buffer.from(text, 'base64')]));
  const [sealingId] = ring.keys();
  if (sealingId === undefined) throw new TypeError('a payload codec needs a key');
  const sealingKey = ring.get(sealingId) as Buffer;

  function seal(payload: Payload): Payload {
    const plain = PayloadMessage.encode(payload).finish();
    const iv = random(IV_BYTES);
    const cipher = createCipheriv(CIPHER, sealingKey, iv);
    const data = Buffer.concat([iv, cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
    return { metadata: { [ENCODING_FIELD]: Buffer.from(ENCODING), [KEY_FIELD]: Buffer.from(sealingId ?? '') }, data };
  }

  function open(payload: Payload): Payload {
    if (textOf(payload, ENCODING_FIELD) !== ENCODING) return payload;
    const keyId = textOf(payload, KEY_FIELD);
    const key = ring.get(keyId);
    if (key === undefined) {
      throw new PayloadUnreadable(
        `a payload was sealed with key ${keyId}, which PAYLOAD_KEYS does not hold (it holds ${[...ring.keys()].join(', ')})`,
      );
    }
    const data = Buffer.from(payload.data ?? new Uint8Array());
    try {
      const decipher = createDecipheriv(CIPHER, key, data.subarray(0, IV_BYTES), { authTagLength: TAG_BYTES });
      decipher.setAuthTag(data.subarray(-TAG_BYTES));
      const plain = Buffer.concat([decipher.update(data.subarray(IV_BYTES, -TAG_BYTES)), decipher.final()]);
      return PayloadMessage.decode(plain);
    } catch (error) {
      throw new PayloadUnreadable(`a payload sealed with key ${keyId} is not what was sealed`, { cause: error });
    }
  }

  return {
    encode: async (payloads) => payloads.map(seal),
    decode: async (payloads) => payloads.map(open),
  };
}

/** Tells keys apart and says nothing about them. */
function keyIdOf(key: string): string {
  return createHash('sha256').update('milkrun payload key').update(key).digest('hex').slice(0, 12);
}

function textOf({ metadata }: Payload, field: string): string {
  return Buffer.from(metadata?.[field] ?? new Uint8Array()).toString();
}
