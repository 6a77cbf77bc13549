/** An activity definition as it passes from the one that checked it to the one that keeps it. */
export interface StoredDefinition {
  readonly slug: string;
  readonly name: string;
  readonly enabled: boolean;
  readonly triggerType: 'cron' | 'at' | 'event' | 'manual';
  /** JSON text, as the next two. */
  readonly triggerConfig: string;
  readonly contextSources: string;
  readonly taskTemplates: string;
  readonly dedupeKeyStrategy: string;
  /** The whole definition, JSON text. */
  readonly spec: string;
  /** Equal exactly when two definitions say the same, `enabled` aside. */
  readonly fingerprint: string;
  /** Expression and zone, or the instant: when it changes, no past is run under the new one. Null without either. */
  readonly timeKey: string | null;
  /** Types of the events it waits for. */
  readonly eventTypes: readonly string[];
}
