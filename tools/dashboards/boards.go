package main

// at narrows a metric to the chosen hosts; more labels may follow.
const at = `instance=~"$instance"`

// on narrows spans to the chosen hosts; more conditions may follow.
const on = `resource.host.name=~"$host"`

var boards = []*board{
	{
		uid: "belay-enforcement", title: "Belay / Enforcement", text: "What is enforced where, what was denied, and what was not seen.",
		rows: []row{
			{"In force", []panel{
				{title: "Enforcing", text: "1 while a test denial works and a policy is in force.", kind: "stat", width: 8, unit: "short", warn: 1, low: true,
					queries: []query{{`min by (instance, belay_backend) (belay_enforcing_ratio{` + at + `})`, "{{instance}} {{belay_backend}}"}}},
				{title: "Containers", kind: "stat", width: 4, unit: "short", queries: []query{{`sum(belay_containers{` + at + `})`, "containers"}}},
				{title: "What hosts can do about a rule", text: "3 prevent, 2 kill, 1 detect, 0 unsupported; the weakest of the hosts.", kind: "table",
					queries: []query{{`min by (belay_policy_rule) (belay_rule_level_ratio{` + at + `})`, ""}}},
			}},
			{"Decisions", []panel{
				{title: "Decisions by outcome", unit: "ops", queries: []query{{`sum by (belay_decision) (rate(belay_decisions_total{` + at + `}[$__rate_interval]))`, "{{belay_decision}}"}}},
				{title: "Denials by rule", unit: "ops",
					queries: []query{{`topk(10, sum by (belay_policy_name, belay_policy_rule) (rate(belay_decisions_total{` + at + `,belay_decision="denied"}[$__rate_interval])))`, "{{belay_policy_name}} {{belay_policy_rule}}"}}},
				{title: "Denials, by host", unit: "short",
					queries: []query{{`topk(10, sum by (instance) (increase(belay_decisions_total{` + at + `,belay_decision="denied"}[$__range])))`, "{{instance}}"}}},
				{title: "Would be denied (audit)", unit: "ops",
					queries: []query{{`topk(10, sum by (belay_policy_name, belay_policy_rule) (rate(belay_decisions_total{` + at + `,belay_decision="would_deny"}[$__rate_interval])))`, "{{belay_policy_name}} {{belay_policy_rule}}"}}},
			}},
			{"What is not seen", []panel{
				{title: "Events lost", text: "A decision is never lost, but its record can be.", unit: "ops", queries: []query{{`sum by (belay_cause) (rate(belay_events_lost_total{` + at + `}[$__rate_interval])) > 0`, "{{belay_cause}}"}}},
				{title: "Failures and refusals inside Belay", text: "The counters of belay status.", unit: "ops",
					queries: []query{{`topk(10, sum by (belay_counter) (rate(belay_health_count_total{` + at + `}[$__rate_interval])) > 0)`, "{{belay_counter}}"}}},
				{title: "Kernel maps", text: "Entries in use, of those that there is room for.", unit: "percentunit", max: 1, warn: .7, bad: .9,
					queries: []query{{`max by (belay_map) (belay_map_entries{` + at + `} / belay_map_limit{` + at + `})`, "{{belay_map}}"}}},
			}},
		},
	},
	{
		uid: "belay-gate", title: "Belay / Gate and scans", text: "Calls of the container engine's API through the gate, and scans of images.",
		rows: []row{
			{"Calls", []panel{
				{title: "Calls by outcome", unit: "ops", queries: []query{{`sum by (belay_decision) (rate(belay_gate_duration_seconds_count{` + at + `}[$__rate_interval]))`, "{{belay_decision}}"}}},
				{title: "Refused, by action", unit: "ops",
					queries: []query{{`topk(10, sum by (belay_api_action) (rate(belay_gate_duration_seconds_count{` + at + `,belay_decision="denied"}[$__rate_interval])))`, "{{belay_api_action}}"}}},
				{title: "Time until the answer's head", text: "Exemplars lead to traces.", unit: "s", queries: []query{
					{`histogram_quantile(0.5, sum by (le) (rate(belay_gate_duration_seconds_bucket{` + at + `}[$__rate_interval])))`, "median"},
					{`histogram_quantile(0.95, sum by (le) (rate(belay_gate_duration_seconds_bucket{` + at + `}[$__rate_interval])))`, "95 %"},
					{`histogram_quantile(0.99, sum by (le) (rate(belay_gate_duration_seconds_bucket{` + at + `}[$__rate_interval])))`, "99 %"},
				}},
				{title: "… as a heat map", kind: "heatmap", unit: "s", queries: []query{{`sum by (le) (increase(belay_gate_duration_seconds_bucket{` + at + `}[$__rate_interval]))`, "{{le}}"}}},
			}},
			{"Images", []panel{
				{title: "Scans, matches and reloads", unit: "ops", queries: []query{{`sum by (belay_operation, belay_outcome) (rate(belay_operation_duration_seconds_count{` + at + `}[$__rate_interval]))`, "{{belay_operation}} {{belay_outcome}}"}}},
				{title: "… and how long they take (95 %)", unit: "s",
					queries: []query{{`histogram_quantile(0.95, sum by (le, belay_operation) (rate(belay_operation_duration_seconds_bucket{` + at + `}[$__rate_interval])))`, "{{belay_operation}}"}}},
				{title: "Oldest scans", unit: "s", kind: "table", queries: []query{{`topk(20, belay_scan_age_seconds{` + at + `})`, ""}}},
				{title: "Age of the vulnerability database", unit: "s", kind: "stat", warn: 2 * 86400, bad: 7 * 86400, queries: []query{{`max by (instance) (belay_vulndb_age_seconds{` + at + `})`, "{{instance}}"}}},
			}},
		},
	},
	{
		uid: "belay-node", title: "Belay / Node and agent", text: "How full nodes are, and what Belay itself takes and sends.",
		rows: []row{
			{"The node", []panel{
				{title: "Over a cap", kind: "stat", width: 6, unit: "short", bad: 1, queries: []query{{`sum by (instance) (belay_load_over_ratio{` + at + `})`, "{{instance}}"}}},
				{title: "Readings", unit: "percent", max: 100, width: 18, queries: []query{
					{`belay_load_reading_percent{` + at + `}`, "{{instance}} {{belay_load_cap}}"},
					{`belay_load_limit_percent{` + at + `}`, "cap {{instance}} {{belay_policy_name}} {{belay_load_cap}}"},
				}},
				{title: "Pressure", text: "Share of the time in which some task waited for a resource; also where no LoadPolicy is in force.", unit: "percentunit", max: 1, width: 24,
					queries: []query{{`rate(belay_node_pressure_seconds_total{` + at + `}[$__rate_interval])`, "{{instance}} {{belay_resource}}"}}},
			}},
			{"The agent", []panel{
				{title: "Given up near its own caps", text: "0 nothing, 1 scans, 2 caches, 3 most records about what was allowed, 4 their details.", kind: "stat", width: 6, unit: "short", warn: 1, bad: 3,
					queries: []query{{`max by (instance) (belay_own_step_ratio{` + at + `})`, "{{instance}}"}}},
				{title: "Memory", unit: "bytes", width: 9, queries: []query{
					{`process_memory_usage_bytes{` + at + `}`, "resident {{instance}}"},
					{`belay_own_memory_bytes{` + at + `}`, "cgroup {{instance}}"},
					{`belay_own_memory_limit_bytes{` + at + `}`, "cap {{instance}}"},
				}},
				{title: "Processors", unit: "short", width: 9, queries: []query{{`sum by (instance, cpu_mode) (rate(process_cpu_time_seconds_total{` + at + `}[$__rate_interval]))`, "{{instance}} {{cpu_mode}}"}}},
			}},
			{"Evidence", []panel{
				{title: "Journal: records", unit: "ops", queries: []query{{`sum by (instance) (rate(belay_journal_written_total{` + at + `}[$__rate_interval]))`, "{{instance}}"}}},
				{title: "Journal: size", unit: "bytes", queries: []query{{`belay_journal_size_bytes{` + at + `}`, "{{instance}}"}}},
				{title: "Sent", unit: "ops", queries: []query{
					{`sum by (belay_signal) (rate(belay_telemetry_sent_total{` + at + `}[$__rate_interval]))`, "OpenTelemetry {{belay_signal}}"},
					{`sum by (belay_output) (rate(belay_output_sent_total{` + at + `}[$__rate_interval]))`, "{{belay_output}}"},
				}},
				{title: "Not sent", text: "By cause. The journal has all of it: belay events replay.", unit: "ops", queries: []query{
					{`sum by (belay_signal, belay_cause) (rate(belay_telemetry_dropped_total{` + at + `}[$__rate_interval])) > 0`, "OpenTelemetry {{belay_signal}} {{belay_cause}}"},
					{`sum by (belay_output, belay_cause) (rate(belay_output_dropped_total{` + at + `}[$__rate_interval])) > 0`, "{{belay_output}} {{belay_cause}}"},
				}},
				{title: "Waiting to be sent", unit: "short", queries: []query{
					{`sum by (instance, belay_signal) (belay_telemetry_queued{` + at + `})`, "{{instance}} {{belay_signal}}"},
					{`sum by (instance, belay_output) (belay_output_queued{` + at + `})`, "{{instance}} {{belay_output}}"},
				}},
			}},
		},
	},
	{
		uid: "belay-traces", title: "Belay / Traces", text: "Calls of the gate, lives of containers, and what agents did, as traces.", traces: true,
		rows: []row{
			{"The gate", []panel{
				{title: "Refused calls", text: "In audit too: would_deny.", kind: "table", width: 24, queries: []query{{`{` + on + ` && name=~"gate.*" && span.belay.decision=~"denied|would_deny"}` +
					` | select(span.belay.decision, span.belay.caller.name, span.belay.policy.name, span.belay.policy.rule, span.belay.cause)`, ""}}},
				{title: "Slow calls", text: "A second and more, the daemon's time included.", kind: "table", queries: []query{{`{` + on + ` && name=~"gate.*" && duration>=1s} | select(span.belay.caller.name, span.http.response.status_code)`, ""}}},
				{title: "Calls that the daemon failed", kind: "table", queries: []query{{`{` + on + ` && name=~"gate.*" && span.http.response.status_code>=500} | select(span.belay.caller.name, span.http.response.status_code)`, ""}}},
			}},
			{"Containers", []panel{
				{title: "Lives with denials", text: "The denials are the span's events, the calls about the container its links.", kind: "table",
					queries: []query{{`{` + on + ` && name="container" && span.belay.denials>0} | select(span.container.name, span.container.image.name, span.belay.denials)`, ""}}},
				{title: "Slow starts", text: "From the cgroup to the first exec, a second and more.", kind: "table", queries: []query{{`{` + on + ` && name="container starting" && duration>=1s} | select(span.container.id)`, ""}}},
			}},
			{"What agents did", []panel{
				{title: "Scans", kind: "table", queries: []query{{`{` + on + ` && name="scan"} | select(span.belay.image.id, span.belay.image.digest, status)`, ""}}},
				{title: "Scans by stage", text: "And the matches that the scan API asked for.", kind: "table", queries: []query{{`{` + on + ` && name=~"scan .+|match"} | select(status)`, ""}}},
				{title: "Moves", kind: "table", queries: []query{{`{` + on + ` && name="move"} | select(span.belay.move.id, status)`, ""}}},
				{title: "Moves by step", kind: "table", queries: []query{{`{` + on + ` && name=~"move .+"} | select(status)`, ""}}},
				{title: "Reloads of policies", kind: "table", queries: []query{{`{` + on + ` && name="policy reload"} | select(span.belay.policy.revision, status)`, ""}}},
				{title: "What failed", kind: "table", queries: []query{{`{` + on + ` && name=~"(scan|match|move|policy reload).*" && status=error} | select(statusMessage)`, ""}}},
			}},
		},
	},
}
