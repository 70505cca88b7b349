// Command dashboards writes the Grafana dashboards of deploy/grafana from the panels below: one
// file each, for Grafana 10 and later with a Prometheus data source, or Tempo for traces. `-check` compares instead.
//
// It is run by hand when a metric, a span or a panel changes; its tests hold it against the metrics and the spans
// that an agent really has. It is linked into no product binary. Row: tools.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	dir := flag.String("dir", "deploy/grafana", "folder of the dashboards")
	check := flag.Bool("check", false, "only tell whether they are what this program writes")
	flag.Parse()
	if err := run(*dir, *check); err != nil {
		fmt.Fprintln(os.Stderr, "dashboards:", err)
		os.Exit(1)
	}
}

func run(dir string, check bool) error {
	for _, b := range boards {
		text, err := b.JSON()
		if err != nil {
			return err
		}
		path := filepath.Join(dir, b.uid+".json")
		if !check {
			if err := os.WriteFile(path, text, 0o644); err != nil { //nolint:gosec // published
				return err
			}
			continue
		}
		was, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Equal(was, text) {
			return fmt.Errorf("%s is not what this program writes: run go run ./tools/dashboards and commit it", path)
		}
	}
	return nil
}

// board is one dashboard: rows of panels.
type board struct {
	uid, title, text string
	traces           bool // panels ask Tempo, in TraceQL
	rows             []row
}

type row struct {
	title  string
	panels []panel
}

// panel shows queries. Its kind is a Grafana panel type.
type panel struct {
	title, text string
	kind        string // timeseries, stat, table or heatmap; empty: timeseries
	unit        string // of Grafana: s, bytes, percent, ops, short
	width       int    // of 24; 0: 12
	max         float64
	warn, bad   float64 // thresholds; 0: none
	low         bool    // what is below warn is bad
	queries     []query
}

// query is PromQL with the legend of its series, or TraceQL.
type query struct{ expr, legend string }

// obj is an object of Grafana's model.
//
// Source: the dashboard JSON model, Grafana documentation.
type obj = map[string]any

const height = 8

// JSON writes the dashboard as Grafana imports it. Keys are sorted, so the same panels are the
// same bytes.
func (b *board) JSON() ([]byte, error) {
	panels := []obj{}
	id, y := 1, 0
	for _, r := range b.rows {
		panels = append(panels, obj{"type": "row", "id": id, "title": r.title, "collapsed": false, "gridPos": obj{"h": 1, "w": 24, "x": 0, "y": y}, "panels": []obj{}})
		id++
		y++
		x := 0
		for i := range r.panels {
			p := &r.panels[i]
			w := p.width
			if w == 0 {
				w = 12
			}
			if x+w > 24 {
				x, y = 0, y+height
			}
			panels = append(panels, p.object(b.source(), id, x, y, w))
			id++
			x += w
		}
		y += height
	}
	out, err := json.MarshalIndent(obj{
		"uid": b.uid, "title": b.title, "description": b.text, "tags": []string{"belay"}, "schemaVersion": 39, "version": 1,
		"editable": true, "graphTooltip": 1, "refresh": "30s", "time": obj{"from": "now-6h", "to": "now"}, "timezone": "browser",
		"annotations": obj{"list": []obj{}}, "links": []obj{{
			"asDropdown": true, "title": "Belay", "type": "dashboards", "tags": []string{"belay"}, "includeVars": true, "keepTime": true,
			"icon": "external link", "tooltip": "", "targetBlank": false,
		}},
		"templating": obj{"list": b.variables()},
		"panels":     panels,
	}, "", "  ")
	return append(out, '\n'), err
}

// source is what the board's panels ask: the data source that its first variable names.
func (b *board) source() obj {
	if b.traces {
		return obj{"type": "tempo", "uid": "${traces}"}
	}
	return obj{"type": "prometheus", "uid": "${source}"}
}

// variables are the board's: where to ask, and about which hosts.
func (b *board) variables() []obj {
	source := obj{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": obj{"text": "default", "value": "default"}, "hide": 0}
	host := obj{
		"name": "instance", "label": "Host", "type": "query", "datasource": b.source(), "query": obj{"query": "label_values(belay_enforcing_ratio, instance)", "refId": "v"},
		"refresh": 2, "multi": true, "includeAll": true, "allValue": ".*", "current": obj{"text": "All", "value": "$__all"}, "sort": 1,
	}
	if b.traces {
		source["name"], source["label"], source["query"] = "traces", "Tempo", "tempo"
		host["name"], host["query"] = "host", obj{"type": labelValues, "label": "host.name", "refId": "v"}
	}
	return []obj{source, host}
}

// labelValues asks Tempo's data source for the values of an attribute.
//
// Source: TempoVariableQueryType of Grafana's Tempo plugin.
const labelValues = 1

// target is one query as its data source has it.
func (q query) target(source obj, kind string) obj {
	if source["type"] == "tempo" {
		return obj{"datasource": source, "queryType": "traceql", "query": q.expr, "tableType": "spans", "limit": 50, "spss": 10, "filters": []obj{}}
	}
	t := obj{"datasource": source, "expr": q.expr, "legendFormat": q.legend}
	switch kind {
	case "table":
		t["format"], t["instant"], t["range"] = "table", true, false
	case "heatmap":
		t["format"] = "heatmap"
	default:
		t["exemplar"] = true
	}
	return t
}

func (p *panel) object(source obj, id, x, y, w int) obj {
	kind := p.kind
	if kind == "" {
		kind = "timeseries"
	}
	defaults := obj{"unit": p.unit}
	if p.unit != "dateTimeFromNow" && kind != "table" {
		defaults["min"] = 0
	}
	if p.max > 0 {
		defaults["max"] = p.max
	}
	if p.warn != 0 || p.bad != 0 {
		defaults["thresholds"] = obj{"mode": "absolute", "steps": p.steps()}
		defaults["color"] = obj{"mode": "thresholds"}
		if kind == "timeseries" {
			defaults["color"] = obj{"mode": "palette-classic"}
			defaults["custom"] = obj{"thresholdsStyle": obj{"mode": "line"}}
		}
	}
	targets := []obj{}
	for i, q := range p.queries {
		t := q.target(source, kind)
		t["refId"] = string(rune('A' + i))
		targets = append(targets, t)
	}
	o := obj{
		"id": id, "type": kind, "title": p.title, "description": p.text, "datasource": source, "targets": targets,
		"gridPos":     obj{"h": height, "w": w, "x": x, "y": y},
		"fieldConfig": obj{"defaults": defaults, "overrides": []obj{}},
	}
	switch kind {
	case "timeseries":
		o["options"] = obj{"legend": obj{"showLegend": true, "displayMode": "table", "placement": "bottom", "calcs": []string{"lastNotNull", "max"}}, "tooltip": obj{"mode": "multi", "sort": "desc"}}
	case "stat":
		o["options"] = obj{
			"reduceOptions": obj{"calcs": []string{"lastNotNull"}}, "colorMode": "background", "textMode": "value_and_name", "graphMode": "area",
			"justifyMode": "auto", "orientation": "auto", "wideLayout": true, "showPercentChange": false, "percentChangeColorMode": "standard",
		}
	case "heatmap":
		o["options"] = obj{
			"calculate": false, "yAxis": obj{"unit": p.unit}, "showValue": "never", "legend": obj{"show": true}, "tooltip": obj{"mode": "single", "yHistogram": false, "showColorScale": false},
			"color": obj{"mode": "scheme", "scheme": "Oranges", "exponent": 0.5, "fill": "dark-orange", "reverse": false, "steps": 64}, "exemplars": obj{"color": "rgba(255,0,255,0.7)"},
		}
	case "table":
		if source["type"] == "tempo" {
			break
		}
		o["transformations"] = []obj{{"id": "organize", "options": obj{"excludeByName": obj{"Time": true, "job": true, "__name__": true, "otel_scope_name": true, "otel_scope_version": true, "otel_scope_schema_url": true}}}}
	}
	return o
}

func (p *panel) steps() []obj {
	if p.low {
		return []obj{{"color": "red", "value": nil}, {"color": "green", "value": p.warn}}
	}
	steps := []obj{{"color": "green", "value": nil}}
	if p.warn != 0 {
		steps = append(steps, obj{"color": "orange", "value": p.warn})
	}
	return append(steps, obj{"color": "red", "value": p.bad})
}
