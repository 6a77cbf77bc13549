export { ALERTS, type Alert } from './alerts.ts';
export { CATALOGUE, type MetricName, type MetricSpec, type MetricType, prometheusNameOf } from './catalogue.ts';
export { type CostEstimate, type CostInput, costPerMillionPolls, LIST_PRICES, type Prices } from './cost.ts';
export { dashboardExpressions } from './dashboards.ts';
export { createLog, LOG_LEVELS, type LogLevel, type LogOptions } from './log.ts';
export { createMetrics, type MetricsOptions, type TelemetryMetrics, UnknownMetric } from './metrics.ts';
export { type MetricsServer, type MetricsServerOptions, startMetricsServer } from './metrics-server.ts';
export { redact } from './redact.ts';
export { type MetricsSnapshot, quantileOf, type Series, totalOf } from './series.ts';
