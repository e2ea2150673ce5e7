// Types that others publish, by the names under which check.mjs asks for them.
import type * as grafana from "@grafana/schema";
import type * as stat from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type * as table from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type * as timeseries from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";
import type { IPodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import type { IPrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";

export type PodMonitor = IPodMonitor;
export type PrometheusRule = IPrometheusRule;

export type Dashboard = grafana.Dashboard;
export type StatOptions = stat.Options;
export type TableOptions = table.Options;
export type TableFields = table.FieldConfig;
export type TimeseriesOptions = timeseries.Options;
export type TimeseriesFields = timeseries.FieldConfig;
