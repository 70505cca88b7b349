package worker

import (
	"slices"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// TestManifests: packages of PHP, .NET and Ruby that are installed, and files that only look so.
func TestManifests(t *testing.T) {
	layer := tarOf(t,
		ent{name: "app/vendor/composer/installed.json", body: `{"packages":[{"name":"monolog/monolog","version":"v2.9.1"},{"name":"twig/twig","version":"3.8.0"}],"dev":false}`},
		ent{name: "old/vendor/composer/installed.json", body: `[{"name":"symfony/yaml","version":"5.4.0"}]`},
		ent{name: "app/composer.lock", body: `{"packages":[{"name":"not/installed","version":"1.0.0"}]}`},
		ent{name: "srv/Web.deps.json", body: `{"libraries":{"Web/1.0.0":{"type":"project"},"Newtonsoft.Json/12.0.1":{"type":"package"},"odd":{"type":"package"}}}`},
		ent{name: "usr/lib/ruby/gems/3.1.0/specifications/nokogiri-1.15.4-x86_64-linux.gemspec", body: "Gem::Specification.new do |s|\n  s.name = \"nokogiri\".freeze\n  s.version = \"1.15.4\"\n  s.platform = \"x86_64-linux\".freeze\nend\n"},
		ent{name: "usr/lib/ruby/gems/3.1.0/specifications/default/rake-13.0.6.gemspec", body: "  s.name = 'rake'\n  s.version = Gem::Version.new(\"13.0.6\")\n"},
		ent{name: "src/mygem.gemspec", body: "  s.name = \"mygem\"\n  s.version = \"1\"\n"},
	)
	want := []string{
		"composer monolog/monolog 2.9.1 @0", "composer symfony/yaml 5.4.0 @0", "composer twig/twig 3.8.0 @0",
		"gem nokogiri 1.15.4 @0", "gem rake 13.0.6 @0", "nuget Newtonsoft.Json 12.0.1 @0",
	}
	for _, l := range [][]byte{layer, gzipped(layer)} {
		res, err := readArchive(t, dockerArchive(t, l))
		if err != nil {
			t.Fatal(err)
		}
		if got := summary(res); !slices.Equal(got, want) || !res.Complete() {
			t.Errorf("got %q, %v, want %q", got, res.Notes, want)
		}
	}
	for part, e := range map[string]ent{
		"Composer that is none": {name: "a/vendor/composer/installed.json", body: strings.Repeat("[", 9999)},
		"an installed.json":     {name: "b/vendor/composer/installed.json", body: strings.Repeat(" ", 5<<20)},
		"NET that is none":      {name: "a.deps.json", body: `{"libraries":[]}`},
		"without a name":        {name: "x/specifications/a.gemspec", body: "s.name = \"\"\n"},
	} {
		res, err := readArchive(t, dockerArchive(t, tarOf(t, e)))
		if err != nil || !slices.ContainsFunc(res.Notes, func(n inventory.Note) bool { return strings.Contains(n.Text, part) }) {
			t.Errorf("%s: %v, %+v, want a note", part, err, res)
		}
	}
}
