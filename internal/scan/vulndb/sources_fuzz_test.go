package vulndb

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/scan/osvdir"
)

// FuzzSources: a file that a database is built from is anybody's once a mirror is: FIRST's list, CISA's
// catalogue, Debian's tracker, an archive of records. What is taken makes a database that can be read.
func FuzzSources(f *testing.F) {
	const epssList, kev, tracker, osv = 0, 1, 2, 3
	f.Add(byte(epssList), []byte("#model_version:v2025\ncve,epss,percentile\nCVE-2024-1,0.5,0.9\n"))
	f.Add(byte(epssList), []byte("CVE-1,NaN,2\n"))
	f.Add(byte(epssList), packed(f, "CVE-1,0,0\n")[:20])
	f.Add(byte(kev), []byte(`{"vulnerabilities":[{"cveID":"CVE-2024-1"}]}`))
	f.Add(byte(tracker), []byte(`{"openssl":{"CVE-2024-1":{"releases":{"bookworm":{"status":"open","urgency":"unimportant","nodsa":"x","nodsa_reason":"ignored"}}}}}`))
	f.Add(byte(tracker), []byte(`{"a":{}}{`))
	f.Add(byte(osv), zipped(f, "D-1.json", rec("D-1", "Debian:12", "openssl", upTo2)))
	f.Add(byte(osv), zipped(f, "../x.json", `{}`))
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		dir := t.TempDir()
		write := func(name string, b []byte) string {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}
		o := BuildOptions{Walk: osvdir.Walk, Dir: dir, Now: time.Unix(1e9, 0)}
		write("1.json", []byte(rec("CVE-2024-1", "Debian:12", "openssl", upTo2)))
		switch kind % 4 {
		case epssList:
			if !bytes.HasPrefix(b, []byte{0x1f, 0x8b}) {
				b = packed(t, string(b))
			}
			o.EPSS = write("epss.csv.gz", b)
			list, _ := readEPSS(o.EPSS)
			for cve, e := range list {
				if !(e.score >= 0 && e.score <= 1 && e.percentile >= 0 && e.percentile <= 1) {
					t.Errorf("%s: %+v", cve, e)
				}
			}
		case kev:
			o.KEV = write("kev", b)
		case tracker:
			o.Tracker = write("tracker", b)
		case osv:
			osvdir.Check(write("all.zip", b), 100, 1<<20)
		}
		out := filepath.Join(dir, "vuln.db")
		if _, err := Build(t.Context(), out, o); err != nil {
			if _, err := os.Stat(out); err == nil {
				t.Error("a build that failed left a database")
			}
			return
		}
		db, err := Open(out)
		if err != nil {
			t.Fatalf("what was built cannot be opened: %v", err)
		}
		defer db.Close()
		if err := db.Verify(); err != nil {
			t.Errorf("what was built is broken: %v", err)
		}
		if found, _, err := find(db, "Debian:12", "openssl", "1"); err != nil || len(found) == 0 {
			t.Errorf("the record beside it is not found: %v", err)
		}
	})
}

func packed(tb testing.TB, text string) []byte {
	tb.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(text)); err != nil {
		tb.Fatal(err)
	}
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func zipped(tb testing.TB, name, text string) []byte {
	tb.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.Create(name)
	if err == nil {
		_, err = w.Write([]byte(text))
	}
	if err != nil {
		tb.Fatal(err)
	}
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}
