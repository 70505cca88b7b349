package dashboardtest

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/heatmap"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/tempo"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// valid tells whether Grafana's schema takes a dashboard.
func valid(raw []byte) error {
	known := cog.NewRuntime()
	known.RegisterPanelcfgVariant(heatmap.VariantConfig())
	known.RegisterPanelcfgVariant(stat.VariantConfig())
	known.RegisterPanelcfgVariant(table.VariantConfig())
	known.RegisterPanelcfgVariant(timeseries.VariantConfig())
	known.RegisterDataqueryVariant(prometheus.VariantConfig())
	known.RegisterDataqueryVariant(tempo.VariantConfig())
	var d dashboard.Dashboard
	for _, err := range []error{d.UnmarshalJSONStrict(raw), d.Validate()} {
		// An empty list of errors is none.
		if errs, ok := errors.AsType[cog.BuildErrors](err); err != nil && (!ok || len(errs) > 0) {
			return err
		}
	}
	return nil
}

func TestDashboards(t *testing.T) {
	files, err := filepath.Glob("../../deploy/grafana/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards (%v)", err)
	}
	refused := map[string]int{}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			raw, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if err := valid(raw); err != nil {
				t.Error(err)
			}
			// What no version of Grafana knows is found wherever it stands.
			for _, wrong := range [][2]string{
				{`"editable": true`, `"editable": "yes"`},
				{`"gridPos": {`, `"gridPlace": {`},
				{`"displayMode": "table"`, `"displayMode": 1`},
				{`"exemplar": true`, `"exemplars": true`},
				{`"refId": "A"`, `"refid": "A"`},
				{`"tableType": "spans"`, `"tableKind": "spans"`},
			} {
				if changed := bytes.Replace(raw, []byte(wrong[0]), []byte(wrong[1]), 1); !bytes.Equal(changed, raw) {
					refused[wrong[0]]++
					if valid(changed) == nil {
						t.Errorf("%s in the place of %s is valid", wrong[1], wrong[0])
					}
				}
			}
		})
	}
	if len(refused) != 6 {
		t.Errorf("of what is wrong only %v was tried", refused)
	}
}
