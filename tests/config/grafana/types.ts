// The types that a dashboard of Grafana has, by the names under which check.mjs asks for them.
import type * as grafana from "@grafana/schema";
import type * as stat from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type * as table from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type * as timeseries from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

export type Dashboard = grafana.Dashboard;
export type StatOptions = stat.Options;
export type TableOptions = table.Options;
export type TableFields = table.FieldConfig;
export type TimeseriesOptions = timeseries.Options;
export type TimeseriesFields = timeseries.FieldConfig;
