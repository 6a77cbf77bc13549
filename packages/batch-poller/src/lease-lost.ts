/** The batch ended or expired under a running step: nothing may be written for it any more. */
export class LeaseLost extends Error {
  override readonly name = 'LeaseLost';

  constructor(batchId: string) {
    super(`batch ${batchId} is over`);
  }
}
