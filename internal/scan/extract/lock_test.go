package extract

import (
	"slices"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/scan/image"
	"github.com/belay-project/belay/internal/scan/inventory"
)

func TestLocks(t *testing.T) {
	tests := map[string]struct{ body, want string }{
		"a/package-lock.json": {`{"lockfileVersion":3,"packages":{"":{"name":"app","version":"1.0.0"},"node_modules/a":{"version":"1.2.3"},"node_modules/a/node_modules/@s/b":{"version":"2.0.0"},
			"node_modules/d":{"version":"9.0.0","dev":true},"node_modules/l":{"link":true,"resolved":"packages/l"},"packages/l":{"version":"3.0.0"},"node_modules/alias":{"name":"real","version":"4.0.0"},"node_modules/g":{"version":"git+https://x/y"}}}`,
			"npm @s/b 2.0.0, npm a 1.2.3, npm real 4.0.0"},
		"b/package-lock.json": {`{"lockfileVersion":1,"dependencies":{"a":{"version":"1.2.3","dependencies":{"b":{"version":"2.0.0"}}},"d":{"version":"1.0.0","dev":true},"al":{"version":"npm:@r/eal@5.0.0"}}}`,
			"npm @r/eal 5.0.0, npm a 1.2.3, npm b 2.0.0"},
		"c/yarn.lock": {"# yarn lockfile v1\n\n\"@babel/core@^7.0.0\", \"@babel/core@^7.1.0\":\n  version \"7.1.2\"\n  resolved \"https://r/x.tgz\"\n  dependencies:\n    version \"9.9.9\"\n\nleft-pad@^1:\n  version \"1.3.0\"\n\nal@npm:real@^2:\n  version \"2.0.1\"\n",
			"npm @babel/core 7.1.2, npm left-pad 1.3.0, npm real 2.0.1"},
		"d/yarn.lock": {"__metadata:\n  version: 8\n\n\"app@workspace:.\":\n  version: 0.0.0-use.local\n  resolution: \"app@workspace:.\"\n\n\"lodash@npm:^4.0.0\":\n  version: 4.17.20\n  resolution: \"lodash@npm:4.17.20\"\n",
			"npm lodash 4.17.20"},
		"e/pnpm-lock.yaml": {"lockfileVersion: '6.0'\npackages:\n\n  /@s/a@1.0.0(react@18.0.0):\n    resolution: {integrity: x}\n    dev: false\n\n  /b@2.0.0-rc.1:\n    dev: true\n\n  'c@3.0.0':\n    resolution: {}\n\n  file:x:\n    dev: true\n\nsnapshots:\n  d@4.0.0: {}\n",
			"npm @s/a 1.0.0, npm c 3.0.0"},
		"f/pnpm-lock.yaml": {"lockfileVersion: 5.4\npackages:\n  /@s/a/1.0.0_react@18:\n    dev: false\n  /b/2.0.0:\n    dev: false\n", "npm @s/a 1.0.0, npm b 2.0.0"},
		"g/Cargo.lock":     {"version = 3\n\n[[package]]\nname = \"app\"\nversion = \"0.1.0\"\n\n[[package]]\nname = \"time\"\nversion = \"0.1.43\"\nsource = \"registry+https://x\"\ndependencies = [\n \"libc\",\n]\n", "cargo time 0.1.43"},
		"h/poetry.lock":    {"[[package]]\nname = \"requests\"\nversion = \"2.19.0\"\ncategory = \"main\"\n\n[package.dependencies]\nname = \"no\"\n\n[[package]]\nname = \"pytest\"\nversion = \"1\"\ngroups = [\"dev\"]\n\n[metadata]\nversion = \"x\"\n", "pypi requests 2.19.0"},
		"i/uv.lock":        {"version = 1\n[[package]]\nname = \"app\"\nversion = \"1\"\nsource = { virtual = \".\" }\n[[package]]\nname = \"idna\"\nversion = \"3.4\"\nsource = { registry = \"https://x\" }\n", "pypi idna 3.4"},
		"j/Pipfile.lock":   {`{"default":{"django":{"version":"==2.2.0"},"git":{"ref":"x"}},"develop":{"pytest":{"version":"==1"}}}`, "pypi django 2.2.0"},
		"k/requirements.txt": {"# x\ndjango==2.2.0 \\\n    --hash=sha256:abc\nflask[async]==1.0 ; python_version > '3'\nsix>=1.0\nfoo==1.*\n-e git+https://x#egg=y\nbar === 2.0 # why\n",
			"pypi bar 2.0, pypi django 2.2.0, pypi flask 1.0"},
		"l/composer.lock": {`{"packages":[{"name":"a/b","version":"v1.2.3"}],"packages-dev":[{"name":"c/d","version":"1"}]}`, "composer a/b 1.2.3"},
		"m/Gemfile.lock":  {"GIT\n  remote: x\n  specs:\n    git (1.0)\n\nGEM\n  remote: https://rubygems.org/\n  specs:\n    nokogiri (1.15.4-x86_64-linux)\n      racc (~> 1.4)\n    rack (2.0.1)\n\nPLATFORMS\n  ruby\n", "gem nokogiri 1.15.4, gem rack 2.0.1"},
	}
	for name, tt := range tests {
		got, err := readBoth(t, name, tt.body)
		if want := strings.Split(tt.want, ", "); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"a/node_modules/b/package-lock.json", "usr/lib/python3/site-packages/x/requirements.txt", "a/go.sum", "root/.cargo/registry/src/x/y/Cargo.lock"} {
		if kind := (Set{}).Kind(name, 0o644, 10); kind != "" {
			t.Errorf("%s is read as %q", name, kind)
		}
	}
	for _, name := range []string{"package-lock.json", "Pipfile.lock", "composer.lock"} {
		if _, err := readBoth(t, name, "[["); err == nil {
			t.Errorf("a broken %s gave no error", name)
		}
	}
	if _, err := readBoth(t, "requirements.txt", strings.Repeat("\n", maxLock)+"a==1\n"); err == nil {
		t.Error("a lock file beyond its bound gave no error")
	}
}

func FuzzLock(f *testing.F) {
	f.Add("yarn.lock", "\"@a/b@^7.0.0\":\n  version \"7.1.2\"\n")
	f.Add("pnpm-lock.yaml", "packages:\n  /a/1.0.0:\n    dev: true\n")
	f.Add("poetry.lock", "[[package]]\nname = \"a\"\nversion = \"1\"\n")
	f.Add("requirements.txt", "a==1")
	f.Add("Gemfile.lock", "GEM\n  specs:\n    a (1)\n")
	f.Add("package-lock.json", `{"dependencies":{"a":{"version":"1"}}}`)
	f.Fuzz(func(t *testing.T, name, body string) {
		if locks[name] == nil {
			return
		}
		list, _ := Set{}.Extract("lock", name, content(body, false))
		for _, p := range list.Packages {
			if !p.Locked || p.Name == "" || p.Version == "" {
				t.Errorf("%+v", p)
			}
		}
	})
}

// endless repeats a line, and counts what is read of it.
type endless struct {
	line string
	read int
}

func (e *endless) Read(b []byte) (int, error) {
	n := copy(b, strings.Repeat(e.line, len(b)/len(e.line)+1))
	n -= n % len(e.line)
	e.read += n
	return n, nil
}

// A lock file of more packages than a scan may have is not read on: it would be memory.
func TestLockEnds(t *testing.T) {
	for name, line := range map[string]string{
		"requirements.txt": "a==1\n", "Cargo.lock": "[[package]]\nname = \"a\"\nversion = \"1\"\nsource = \"r\"\n",
		"yarn.lock": "a@^1:\n  version \"1.0.0\"\n\n",
	} {
		r := &endless{line: line}
		_, err := readLock(name, image.Content{Reader: r, Size: maxLock})
		if err == nil || !strings.Contains(err.Error(), "of more than") {
			t.Errorf("%s: %v", name, err)
		}
		if most := (inventory.MaxPackages + 2) * len(line); r.read > most+1<<20 || r.read >= maxLock {
			t.Errorf("%s: %d bytes were read, want at most some %d", name, r.read, most)
		}
	}
}
