package vulndb

import (
	"slices"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// TestInventoryTraps: each line is a way in which matching of RPM and of Java goes wrong.
func TestInventoryTraps(t *testing.T) {
	rpm := func(name, version, source, sourceVersion string) inventory.Package {
		return inventory.Package{Kind: inventory.KindRPM, Name: name, Version: version, Source: source, SourceVersion: sourceVersion}
	}
	java := func(name, version, classes string) inventory.Package {
		return inventory.Package{Kind: inventory.KindJava, Name: name, Version: version, Source: classes}
	}
	until := func(v string) string {
		return `"ranges":[` + rng("ECOSYSTEM", `{"introduced":"0"},{"fixed":"`+v+`"}`) + `]`
	}
	rocky, alma, rhel := inventory.OS{ID: "rocky", VersionID: "8.9"}, inventory.OS{ID: "almalinux", VersionID: "8.9"}, inventory.OS{ID: "rhel", VersionID: "9.3"}
	leap, sles := inventory.OS{ID: "opensuse-leap", VersionID: "15.5"}, inventory.OS{ID: "sles", VersionID: "15.5"}
	tests := []struct {
		name   string
		record string
		os     inventory.OS
		pkg    inventory.Package
		want   string
	}{
		{"a record of the source, by Rocky", rec("R-1", "Rocky Linux:8", "openssl", until("1:1.1.1k-12.el8_9")), rocky, rpm("openssl-libs", "1:1.1.1k-9.el8", "openssl", "1:1.1.1k-9.el8"), "R-1 fixed 1:1.1.1k-12.el8_9"},
		{"epoch 0 is none", rec("R-1", "Rocky Linux:8", "bash", until("0:4.4.20-4.el8_6")), rocky, rpm("bash", "4.4.20-4.el8_6", "bash", "4.4.20-4.el8_6"), ""},
		{"an epoch goes before all", rec("R-1", "Rocky Linux:8", "perl", until("4:5.26.3-419.el8")), rocky, rpm("perl-Pod-Escapes", "1:1.07-395.el8", "perl", "4:5.26.3-422.el8"), ""},
		{"another release", rec("R-1", "Rocky Linux:9", "bash", until("9-1")), rocky, rpm("bash", "4.4.20-4.el8_6", "bash", "4.4.20-4.el8_6"), ""},
		{"a module's fix is none for what is of no module", rec("A-1", "AlmaLinux:8", "nodejs", until("1:18.1.0-1.module_el8.8.0+1")), alma, rpm("nodejs", "1:10.1.0-1.el8", "", ""), ""},
		{"and the other way", rec("A-1", "AlmaLinux:8", "nodejs", until("1:18.1.0-1.el8")), alma, rpm("nodejs", "1:10.1.0-1.module_el8.8.0+1", "", ""), ""},
		{"a module's fix", rec("A-1", "AlmaLinux:8", "nodejs", until("1:18.1.0-2.module_el8.8.0+1")), alma, rpm("nodejs", "1:18.1.0-1.module_el8.8.0+1", "", ""), "A-1 fixed 1:18.1.0-2.module_el8.8.0+1"},
		{"a repository of Red Hat", rec("RH-1", "Red Hat:enterprise_linux:9::baseos", "openssl-libs", until("1:3.0.7-25.el9_3")), rhel, rpm("openssl-libs", "1:3.0.7-24.el9", "openssl", "1:3.0.7-24.el9"), "RH-1 fixed 1:3.0.7-25.el9_3"},
		{"a record of the source, by Red Hat", rec("RH-1", "Red Hat:enterprise_linux:9::appstream", "firefox", until("0:115.6.0-1.el9_3")), rhel, rpm("firefox-x11", "115.5.0-1.el9_3", "firefox", "115.5.0-1.el9_3"), "RH-1 fixed 0:115.6.0-1.el9_3"},
		{"openSUSE", rec("S-1", "openSUSE:Leap 15.5", "curl", until("8.0.1-150400.5.56.1")), leap, rpm("libcurl4", "8.0.1-150400.5.50.1", "curl", "8.0.1-150400.5.50.1"), "S-1 fixed 8.0.1-150400.5.56.1"},
		{"a module of SUSE", rec("S-1", "SUSE:Linux Enterprise Module for Basesystem 15 SP5", "curl", until("8.0.1-150400.5.56.1")), sles, rpm("libcurl4", "8.0.1-150400.5.50.1", "curl", "8.0.1-150400.5.50.1"), "S-1 fixed 8.0.1-150400.5.56.1"},
		{"another service pack", rec("S-1", "SUSE:Linux Enterprise Module for Basesystem 15 SP4", "curl", until("9-1")), sles, rpm("libcurl4", "8.0.1-1", "curl", "8.0.1-1"), ""},
		{"openEuler", rec("E-1", "openEuler:24.03-LTS-SP1", "curl", until("8.4.0-9.oe2403sp1")), inventory.OS{ID: "openEuler", VersionID: "24.03", Pretty: "openEuler 24.03 (LTS-SP1)"}, rpm("curl", "8.4.0-8.oe2403sp1", "curl", "8.4.0-8.oe2403sp1"), "E-1 fixed 8.4.0-9.oe2403sp1"},
		{"Java", rec("M-1", "Maven", "org.apache.logging.log4j:log4j-core", until("2.15.0")), debian12, java("org.apache.logging.log4j:log4j-core", "2.14.1", ""), "M-1 fixed 2.15.0"},
		{"Java, release candidates", rec("M-1", "Maven", "a:b", until("2.15.0")), debian12, java("a:b", "2.15.0-rc1", ""), "M-1 fixed 2.15.0"},
		{"a group that classes tell", rec("M-1", "Maven", "org.springframework:spring-webmvc", until("5.3.18")), debian12, java("spring-webmvc", "5.3.17", "org.springframework.web.servlet"), "M-1 fixed 5.3.18"},
		{"a group that is wrong", rec("M-1", "Maven", "org.springframework:spring-webmvc", until("5.3.18")), debian12, java("com.vendor:spring-webmvc", "5.3.17", "org.springframework.web"), "M-1 fixed 5.3.18"},
		{"a group of another", rec("M-1", "Maven", "org.other:core", until("5")), debian12, java("core", "1", "org.springframework.web"), ""},
		{"a group named as the artifact", rec("M-1", "Maven", "log4j:log4j", until("2")), debian12, java("log4j", "1.2.17", "org.apache.log4j"), "M-1 fixed 2"},
		{"a group that a bundle's name tells", rec("M-1", "Maven", "org.eclipse.sisu:org.eclipse.sisu.inject", until("1")), debian12, java("org.eclipse.sisu.inject", "0.3.5", ""), "M-1 fixed 1"},
		{"Rust", rec("C-1", "crates.io", "time", until("0.2.23")), debian12, inventory.Package{Kind: inventory.KindRust, Name: "time", Version: "0.1.43"}, "C-1 fixed 0.2.23"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			db := build(t, tt.record)
			res := &inventory.Result{OS: tt.os, Packages: []inventory.Package{tt.pkg}}
			m, err := db.Match(t.Context(), res)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range m.Findings {
				got = append(got, strings.TrimSpace(strings.Join(f.IDs, ",")+" "+f.State+" "+f.Fixed))
			}
			if strings.Join(got, "; ") != tt.want {
				t.Errorf("got %q, want %q; notes %v", got, tt.want, m.Notes)
			}
			if tt.want == "" {
				return
			}
			// What a match depends on is among its keys: a change of it is matched again.
			if !slices.ContainsFunc(Keys(res), func(k Key) bool {
				n, err := db.Fingerprint(k)
				return err == nil && k.Name != "" && n != 0
			}) {
				t.Errorf("none of the keys %v is in the database", Keys(res))
			}
		})
	}
}

// TestForeignPackages: a package of another distribution's kind than the release says is looked up nowhere,
// and that is said: the image chooses what its os-release says.
func TestForeignPackages(t *testing.T) {
	db := build(t, rec("D-1", "Debian:12", "bash", upTo2), rec("A-1", "Alpine:v3.20", "bash", upTo2), rec("W-1", "Wolfi", "bash", upTo2), rec("R-1", "Rocky Linux:9", "bash", upTo2))
	systems := map[string]inventory.OS{
		inventory.KindDeb: debian12, inventory.KindApk: {ID: "alpine", VersionID: "3.20.1"}, inventory.KindRPM: {ID: "rocky", VersionID: "9.3"}, "wolfi": {ID: "wolfi", VersionID: "20230201"},
	}
	for _, kind := range []string{inventory.KindDeb, inventory.KindApk, inventory.KindRPM} {
		for of, system := range systems {
			m, err := db.Match(t.Context(), &inventory.Result{OS: system, Packages: []inventory.Package{{Kind: kind, Name: "bash", Version: "1"}}})
			if err != nil {
				t.Fatal(err)
			}
			own := kind == of || kind == inventory.KindApk && of == "wolfi"
			if (len(m.Findings) == 1) != own || (len(m.Notes) == 0) != own {
				t.Errorf("a package of %s on %s: findings %v, notes %v", kind, system.ID, m.Findings, m.Notes)
			}
		}
	}
}

// TestGroupless: an archive that no advisory could name is said.
func TestGroupless(t *testing.T) {
	db := build(t, rec("M-1", "Maven", "a:b", upTo2))
	m, err := db.Match(t.Context(), &inventory.Result{Packages: []inventory.Package{{Kind: inventory.KindJava, Name: "odd", Version: "1"}}})
	if err != nil || len(m.Notes) != 1 || !strings.Contains(m.Notes[0].Text, "tells no group") {
		t.Errorf("got %+v, %v", m, err)
	}
	m, err = db.Match(t.Context(), &inventory.Result{OS: inventory.OS{ID: "amzn", VersionID: "2023"}, Packages: []inventory.Package{{Kind: inventory.KindRPM, Name: "bash", Version: "1-1"}}})
	if err != nil || len(m.Notes) != 1 {
		t.Errorf("a distribution without records: got %+v, %v", m, err)
	}
}
