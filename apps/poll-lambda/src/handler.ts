/** The poll function as AWS Lambda runs it: `handler.handler`, with every built-in connector. */
import { builtInConnectors, createHandler } from '@milkrun/connectors';
import { settingsFrom } from './settings.ts';

export const handler = createHandler(builtInConnectors, { settings: settingsFrom(process.env) });
