package vulndb

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// wanted is one name and version under which a package is looked up.
type wanted struct{ name, version string }

// query returns under which ecosystems, names and versions a package is looked up. There is at
// least one name.
func query(o inventory.OS, p *inventory.Package) (ecosystems []string, names []wanted) {
	plain := []wanted{{p.Name, p.Version}}
	switch p.Kind {
	case inventory.KindGo:
		return []string{"Go"}, []wanted{{p.Name, strings.TrimPrefix(p.Version, "v")}}
	case inventory.KindNPM:
		return []string{"npm"}, plain
	case inventory.KindPython:
		return []string{"PyPI"}, plain
	case inventory.KindComposer:
		return []string{"Packagist"}, plain
	case inventory.KindNuGet:
		return []string{"NuGet"}, plain
	case inventory.KindGem:
		return []string{"RubyGems"}, plain
	case inventory.KindRust:
		return []string{"crates.io"}, plain
	case inventory.KindJava:
		return []string{"Maven"}, javaNames(p)
	case inventory.KindRPM:
		ecosystems, bySource := rpmDistribution(o)
		if src := (wanted{p.Source, p.SourceVersion}); bySource && src.name != "" && src != plain[0] {
			return ecosystems, append(plain, src)
		}
		return ecosystems, plain
	case inventory.KindDeb, inventory.KindApk:
		name, version := cmp.Or(p.Source, p.Name), cmp.Or(p.SourceVersion, p.Version)
		if base, ok := strings.CutPrefix(name, "linux-signed"); ok && (base == "" || base[0] == '-') {
			// Signed kernels are built from linux; their version 6.1.1+1 is its 6.1.1-1.
			name = "linux"
			if i := strings.LastIndexByte(version, '+'); i >= 0 && !strings.Contains(version, "-") {
				version = version[:i] + "-" + version[i+1:]
			}
		}
		if p.Kind == inventory.KindApk {
			return apkDistribution(o), []wanted{{name, version}}
		}
		return debDistribution(o), []wanted{{name, version}}
	}
	return nil, plain
}

// maxGroups bounds how many groups are tried for one archive of Java.
const maxGroups = 12

// javaNames are the names that an archive of Java may have. Where it does not tell its group for
// certain, groups are tried that are the beginning of the package of all its classes, as
// org.springframework is of org.springframework.web, and the artifact's own name, as in
// commons-io:commons-io.
func javaNames(p *inventory.Package) []wanted {
	out := []wanted{{p.Name, p.Version}}
	_, artifact, told := strings.Cut(p.Name, ":")
	if !told {
		artifact = p.Name
		out = append(out, wanted{artifact + ":" + artifact, p.Version})
	}
	// Bundles are named by all of it: org.eclipse.sisu.inject is of org.eclipse.sisu.
	for _, group := range []string{p.Source, artifact[:max(strings.LastIndexByte(artifact, '.'), 0)]} {
		for group != "" && len(out) < maxGroups {
			if w := (wanted{group + ":" + artifact, p.Version}); !slices.Contains(out, w) {
				out = append(out, w)
			}
			group = group[:max(strings.LastIndexByte(group, '.'), 0)]
		}
	}
	return out
}

// groupless reports whether an archive of Java gives nothing to find its group by.
func groupless(p *inventory.Package) bool {
	return p.Kind == inventory.KindJava && p.Source == "" && !strings.ContainsAny(p.Name, ":.")
}

// ubuntuPro begins the ecosystems whose fixes only subscribers get.
const ubuntuPro = "Ubuntu:Pro:"

// debDistribution returns OSV's names for a release whose packages are Debian's kind. An image says itself
// which release it is: the packages of another kind would be looked up where they never are. Source:
// https://ossf.github.io/osv-schema/, "Defined Ecosystems".
func debDistribution(o inventory.OS) []string {
	major, _, _ := strings.Cut(o.VersionID, ".")
	switch {
	case o.ID == "debian" && major != "":
		return []string{"Debian:" + major}
	case o.ID == "ubuntu" && o.VersionID != "":
		return []string{"Ubuntu:" + o.VersionID + ":LTS", "Ubuntu:" + o.VersionID, ubuntuPro + o.VersionID + ":LTS"}
	}
	return nil
}

// apkDistribution is debDistribution for the releases of apk.
func apkDistribution(o inventory.OS) []string {
	major, rest, _ := strings.Cut(o.VersionID, ".")
	minor, _, _ := strings.Cut(rest, ".")
	switch {
	case o.ID == "alpine" && strings.Contains(minor, "_alpha"):
		return []string{"Alpine:edge"} // which calls itself 3.21_alpha20240807
	case o.ID == "alpine" && minor != "":
		return []string{"Alpine:v" + major + "." + minor}
	case o.ID == "wolfi":
		return []string{"Wolfi"}
	case o.ID == "chainguard":
		return []string{"Chainguard"}
	}
	return nil
}

// Repositories of a release of Red Hat's, which its records name, and modules of SUSE's.
var (
	redHatRepos = []string{"appstream", "baseos", "crb", "highavailability", "nfv", "realtime", "resilientstorage", "sap", "sap_hana", "supplementary",
		"server", "client", "workstation", "computenode"} // the last four: 7 and before
	suseModules = []string{"Basesystem", "Certifications", "Confidential Computing", "Containers", "Desktop Applications", "Development Tools", "HPC", "Legacy",
		"Live Patching", "Package Hub", "Public Cloud", "Python 2", "Python 3", "SAP Applications", "Server Applications", "Transactional Server", "Web and Scripting"}
	suseServers = []string{"SUSE:Linux Enterprise Server %s", "SUSE:Linux Enterprise Server %s-LTSS", "SUSE:Linux Enterprise Micro %s"}
)

// rpmDistribution returns OSV's names for a release with RPM, and whether records are about source
// packages. Those of AlmaLinux are about binary ones. Where they are about sources a binary
// package's own name is looked up too, which is what some records have instead.
//
// Rebuilds of Red Hat's that have no records of their own, CentOS alone, are matched by Red Hat's.
// Amazon Linux, Oracle Linux and Fedora have none in OSV: their packages are noted.
func rpmDistribution(o inventory.OS) (ecosystems []string, bySource bool) {
	major, minor, _ := strings.Cut(o.VersionID, ".")
	if major == "" && !strings.EqualFold(o.ID, "opensuse-tumbleweed") {
		return nil, false
	}
	switch strings.ToLower(o.ID) { // bills of materials lose the case
	case "almalinux":
		return []string{"AlmaLinux:" + major}, false
	case "rocky":
		return []string{"Rocky Linux:" + major}, true
	case "rhel", "centos":
		for _, v := range slices.Compact([]string{major, o.VersionID}) {
			ecosystems = append(ecosystems, "Red Hat:enterprise_linux:"+v)
			for _, repo := range redHatRepos {
				ecosystems = append(ecosystems, "Red Hat:enterprise_linux:"+v+"::"+repo)
			}
		}
		return ecosystems, true
	case "opensuse-leap":
		// What Leap takes from SUSE Linux Enterprise comes with records of its own name too.
		return []string{"openSUSE:Leap " + o.VersionID}, true
	case "opensuse-tumbleweed":
		return []string{"openSUSE:Tumbleweed"}, true
	case "sles", "sled", "sles_sap", "suse-microos", "sle-micro":
		return suse(major, minor), true
	case "mageia":
		return []string{"Mageia:" + major}, true
	case "openeuler":
		return openEuler(o), true
	}
	return nil, false
}

// suse returns the names of SUSE Linux Enterprise: 15.5 is 15 SP5.
func suse(major, minor string) []string {
	release := major
	if minor != "" && minor != "0" {
		release += " SP" + minor
	}
	var out []string
	for _, form := range suseServers {
		out = append(out, fmt.Sprintf(form, release))
	}
	for _, m := range suseModules {
		out = append(out, "SUSE:Linux Enterprise Module for "+m+" "+release)
	}
	return append(out, "SUSE:Linux Enterprise Micro "+major+"."+minor)
}

// openEuler takes the service pack from the name for people, "openEuler 24.03 (LTS-SP1)", since
// VERSION_ID has none.
func openEuler(o inventory.OS) []string {
	if _, pack, ok := strings.Cut(o.Pretty, "("); ok {
		if pack, _, ok = strings.Cut(pack, ")"); ok && pack != "" {
			return []string{"openEuler:" + o.VersionID + "-" + pack}
		}
	}
	return []string{"openEuler:" + o.VersionID}
}

// otherModule reports whether a fix is of a module and the package is not, or the other way: they
// are different builds, whose versions say nothing about each other. Releases of modules have
// ".module+el8" (Red Hat, Rocky Linux) or ".module_el8" (AlmaLinux).
func otherModule(eco, version, fixed string) bool {
	if fixed == "" || !strings.HasPrefix(eco, "AlmaLinux:") && !strings.HasPrefix(eco, "Rocky Linux:") && !strings.HasPrefix(eco, "Red Hat:") {
		return false
	}
	return strings.Contains(version, ".module") != strings.Contains(fixed, ".module")
}
