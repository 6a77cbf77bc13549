/** TimerManager: wakes a timer shard. Per batch, never per trigger; a lost wake costs a tick, never a poll. */
export interface TimerManager {
  /** Signals the shard that something is due sooner than its recorded wake. Never throws; reports by metric. */
  arm(timerShard: number): Promise<void>;
}
