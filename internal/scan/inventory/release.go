package inventory

// releases are those of Debian and Ubuntu by the code names by which others name them. Sources:
// https://wiki.debian.org/DebianReleases, https://wiki.ubuntu.com/Releases.
var releases = map[string]OS{
	"buster": {ID: "debian", VersionID: "10"}, "bullseye": {ID: "debian", VersionID: "11"}, "bookworm": {ID: "debian", VersionID: "12"},
	"trixie": {ID: "debian", VersionID: "13"}, "forky": {ID: "debian", VersionID: "14"},
	"trusty": {ID: "ubuntu", VersionID: "14.04"}, "xenial": {ID: "ubuntu", VersionID: "16.04"}, "bionic": {ID: "ubuntu", VersionID: "18.04"},
	"focal": {ID: "ubuntu", VersionID: "20.04"}, "jammy": {ID: "ubuntu", VersionID: "22.04"}, "noble": {ID: "ubuntu", VersionID: "24.04"},
	"plucky": {ID: "ubuntu", VersionID: "25.04"}, "questing": {ID: "ubuntu", VersionID: "25.10"}, "resolute": {ID: "ubuntu", VersionID: "26.04"},
}

// Release returns what os-release says in the release with a code name of Debian or Ubuntu; ok is false for one that is
// not known.
func Release(codename string) (o OS, ok bool) {
	o, ok = releases[codename]
	return o, ok
}
