package inventory

import (
	"strings"
	"testing"
)

func TestScriptUnit(t *testing.T) {
	for file, want := range map[string]string{
		"app/node_modules/x/lib/a.js":                                      "app/node_modules/x/",
		"/app/node_modules/x/lib/a.js":                                     "app/node_modules/x/",
		"app/node_modules/x/node_modules/y/i.js":                           "app/node_modules/x/node_modules/y/",
		"app/node_modules/@s/x/i.js":                                       "app/node_modules/@s/x/",
		"app/node_modules/one.js":                                          "app/node_modules/one.js",
		"app/node_modules/@s/one.js":                                       "app/node_modules/@s/one.js",
		"node_modules/x/a.js":                                              "node_modules/x/",
		"usr/share/nodejs/x/a.js":                                          "usr/share/nodejs/x/",
		"usr/lib/python3/dist-packages/six.py":                             "usr/lib/python3/dist-packages/six.py",
		"usr/lib/python3/dist-packages/__pycache__/six.cpython-311.pyc":    "usr/lib/python3/dist-packages/six.py",
		"usr/lib/python3/dist-packages/yaml/__pycache__/x.cpython-311.pyc": "usr/lib/python3/dist-packages/yaml/",
		"opt/v/lib/python3.12/site-packages/yaml/x.py":                     "opt/v/lib/python3.12/site-packages/yaml/",
		"usr/lib/ruby/gems/3.1.0/gems/rack-2.2/lib/rack.rb":                "usr/lib/ruby/gems/3.1.0/gems/rack-2.2/",
		"srv/vendor/bundle/ruby/3.1.0/gems/rack-2.2/lib/rack.rb":           "srv/vendor/bundle/ruby/3.1.0/gems/rack-2.2/",
		"usr/lib/ruby/vendor_ruby/rack/x.rb":                               "usr/lib/ruby/vendor_ruby/rack/",
		"srv/vendor/symfony/console/A.php":                                 "srv/vendor/symfony/console/",
		"srv/vendor/autoload.php":                                          "srv/vendor/autoload.php",
		"usr/lib/python3.11/json/decoder.py":                               "",
		"srv/my_node_modules/x/a.js":                                       "",
		"a.py":                                                             "",
		"":                                                                 "",
	} {
		if got := ScriptUnit(file); got != want {
			t.Errorf("%s: got %q, want %q", file, got, want)
		}
	}
}

// Whatever the path, a script lies in its unit, which is its own unit.
func FuzzScriptUnit(f *testing.F) {
	f.Add("app/node_modules/@s/x/i.js")
	f.Add("site-packages/__pycache__/six.cpython-311.pyc")
	f.Fuzz(func(t *testing.T, file string) {
		u := ScriptUnit(file)
		if dir, ok := strings.CutSuffix(u, "/"); ok && !strings.HasPrefix(strings.TrimPrefix(file, "/"), dir+"/") {
			t.Errorf("%q does not lie in %q", file, u)
		}
		if u != "" && ScriptUnit(u+"x.py") == "" {
			t.Errorf("%q is the unit of %q, and nothing in it has one", u, file)
		}
	})
}
