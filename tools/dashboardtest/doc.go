// Package dashboardtest holds the Grafana dashboards of deploy/grafana to Grafana's own schema, as its Foundation SDK
// has it: every field of a dashboard, of its panels and of their queries is one that Grafana knows, and has its type.
//
// It is a module of its own, so that Belay does not depend on Grafana's types. Row: tests.
package dashboardtest
