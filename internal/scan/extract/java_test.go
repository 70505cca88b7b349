package extract

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/scan/image"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// zipOf makes an archive of pairs of name and content; a name that begins with "=" is stored.
func zipOf(tb testing.TB, pairs ...string) string {
	tb.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		name, stored := strings.CutPrefix(pairs[i], "=")
		h := &zip.FileHeader{Name: name, Method: zip.Deflate}
		if stored {
			h.Method = zip.Store
		}
		w, err := z.CreateHeader(h)
		if err != nil {
			tb.Fatal(err)
		}
		io.WriteString(w, pairs[i+1])
	}
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.String()
}

func pom(group, artifact, version string) (name, body string) {
	return "META-INF/maven/" + group + "/" + artifact + "/pom.properties",
		"#Created by Maven\r\nversion=" + version + "\r\ngroupId=" + group + "\r\nartifactId=" + artifact + "\r\n"
}

// content gives a file as one of a compressed layer, or of one that can be read anywhere.
func content(s string, anywhere bool) image.Content {
	c := image.Content{Reader: strings.NewReader(s), Size: int64(len(s))}
	if anywhere {
		c.At = strings.NewReader(s)
	}
	return c
}

// read reads a file by both ways, which must agree.
func readBoth(tb testing.TB, name, body string) ([]string, error) {
	tb.Helper()
	var lists [2][]string
	var errs [2]error
	for i := range lists {
		kind := Set{}.Kind(name, 0o755, int64(len(body)))
		f, err := Set{}.Extract(kind, name, content(body, i == 0))
		for _, p := range f.Packages {
			s := p.Kind + " " + p.Name + " " + p.Version
			if p.Path != "" {
				s += " in " + p.Path
			}
			if p.Source != "" {
				s += " by " + p.Source
			}
			lists[i] = append(lists[i], s)
		}
		slices.Sort(lists[i])
		errs[i] = err
	}
	if !slices.Equal(lists[0], lists[1]) || (errs[0] == nil) != (errs[1] == nil) {
		tb.Errorf("%s: in place %q, %v; as a stream %q, %v", name, lists[0], errs[0], lists[1], errs[1])
	}
	return lists[0], errs[0]
}

func TestJava(t *testing.T) {
	logName, logBody := pom("org.apache.logging.log4j", "log4j-core", "2.14.1")
	log := zipOf(t, logName, logBody, "org/apache/logging/log4j/core/Logger.class", "x")
	spring := zipOf(t, "META-INF/MANIFEST.MF", "Manifest-Version: 1.0\r\nExport-Package: "+strings.Repeat("a", 60)+"\r\n"+strings.Repeat(" "+strings.Repeat("b", 70)+"\r\n", 100)+"Implementation-Version: 5.3.17\r\n\r\nName: x\r\nImplementation-Version: 9\r\n",
		"org/springframework/web/servlet/A.class", "", "org/springframework/web/servlet/view/B.class", "", "META-INF/versions/9/x/C.class", "")
	shadedName, shadedBody := pom("com.google.guava", "guava", "30.0-jre")
	tests := []struct {
		name, body string
		want       []string
	}{
		{"a/log4j-core-2.14.1.jar", log, []string{"maven org.apache.logging.log4j:log4j-core 2.14.1"}},
		{"a/renamed.jar", log, []string{"maven org.apache.logging.log4j:log4j-core 2.14.1"}},
		{"a/spring-webmvc-5.3.17.jar", spring, []string{"maven spring-webmvc 5.3.17 by org.springframework.web.servlet"}},
		{"a/spring-webmvc.jar", spring, []string{"maven spring-webmvc 5.3.17 by org.springframework.web.servlet"}},
		{"shaded-1.2.jar", zipOf(t, shadedName, shadedBody, "x/y/A.class", ""), []string{"maven com.google.guava:guava 30.0-jre", "maven shaded 1.2 by x.y"}},
		{"a/jackson-x-1.0.jar", zipOf(t, "META-INF/MANIFEST.MF", "Bundle-SymbolicName: com.fasterxml.jackson-x;singleton:=true\n", "com/fasterxml/A.class", ""), []string{"maven com.fasterxml:jackson-x 1.0 by com.fasterxml"}},
		{"a/n-1.0.jar", zipOf(t, "META-INF/maven/g.h/n/pom.xml", "<project/>", "a/b/A.class", ""), []string{"maven g.h:n 1.0"}},
		{"odd.jar", zipOf(t, "pom.properties", "artifactId=n\ngroupId=g.h\nversion=1.2.3", "x/pom.properties", "version=9"), []string{"maven g.h:n 1.2.3"}},
		{"app.war", zipOf(t, "=WEB-INF/lib/log4j-core-2.14.1.jar", log, "WEB-INF/lib/spring-webmvc-5.3.17.jar", spring), []string{
			"maven org.apache.logging.log4j:log4j-core 2.14.1 in WEB-INF/lib/log4j-core-2.14.1.jar",
			"maven spring-webmvc 5.3.17 in WEB-INF/lib/spring-webmvc-5.3.17.jar by org.springframework.web.servlet"}},
		{"app.ear", zipOf(t, "web.war", zipOf(t, "=l.jar", log)), []string{"maven org.apache.logging.log4j:log4j-core 2.14.1 in web.war!/l.jar"}},
		{"boot.jar", "#!/bin/sh\nexec java\n" + zipOf(t, "=BOOT-INF/lib/log4j-core-2.14.1.jar", log), []string{"maven org.apache.logging.log4j:log4j-core 2.14.1 in BOOT-INF/lib/log4j-core-2.14.1.jar"}},
		{"srv/app/" + logName, logBody, []string{"maven org.apache.logging.log4j:log4j-core 2.14.1"}},
	}
	for _, tt := range tests {
		got, err := readBoth(t, tt.name, tt.body)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
}

// deep is an archive with others within each other.
func deep(tb testing.TB, n int, leaf string) string {
	tb.Helper()
	for range n {
		leaf = zipOf(tb, "a.jar", leaf)
	}
	return leaf
}

// overlapping is an archive of which every entry is the same bytes.
func overlapping(tb testing.TB, n int, name, body string) string {
	tb.Helper()
	one := zipOf(tb, name, body)
	z, err := openZip(strings.NewReader(one), int64(len(one)))
	if err != nil {
		tb.Fatal(err)
	}
	entry := one[z.dir : z.dir+z.dirLen]
	end := []byte(one[z.dir+z.dirLen:])
	binary.LittleEndian.PutUint32(end[12:], uint32(n*len(entry)))
	return one[:z.dir] + strings.Repeat(entry, n) + string(end)
}

// TestHostileJava: each is bounded, and said.
func TestHostileJava(t *testing.T) {
	name, body := pom("g", "a", "1")
	leaf := zipOf(t, name, body)
	zeros := strings.Repeat("\x00", 80<<20)
	forged := []byte(leaf)
	binary.LittleEndian.PutUint32(forged[len(forged)-6:], 1<<30)
	for text, tt := range map[string]struct{ name, body string }{
		"without a directory":                {"a.jar", "no ZIP at all, and yet some bytes of it"},
		"of 0 bytes":                         {"a.jar", ""},
		"outside of it":                      {"a.jar", string(forged)},
		"deep in each other":                 {"a.jar", deep(t, 20, leaf)},
		"bytes at once":                      {"a.jar", zipOf(t, "b.jar", zeros)},
		"entry of a ZIP archive of more":     {"a.jar", zipOf(t, "META-INF/MANIFEST.MF", zeros[:2<<20])},
		"more than 1000000 entries":          {"a.jar", overlapping(t, 1_000_001, "x", "")},
		"more than 5000 archives":            {"a.jar", overlapping(t, 6_000, "=b.jar", leaf)},
		"neither its name nor its version":   {"a.jar", zipOf(t, "x/y/A.class", "")},
		"without a name or version":          {"a.jar", zipOf(t, "META-INF/maven/g/a/pom.properties", "x")},
		"in all":                             {"a.jar", overlapping(t, 4_000, "b.jar", leaf+zeros[:1<<20]+leaf)},
		"unpack to more than 1073741824":     {"a.jar", overlapping(t, 2_000, "META-INF/MANIFEST.MF", "A: "+zeros[:1<<20-3])},
		"to the size that it should have":    {"a.jar", strings.ReplaceAll(zipOf(t, "b.jar", zeros[:1<<20]), "\x00\x00\x10\x00", "\x00\x00\x09\x00")},
		"larger than it can be":              {"a.jar", strings.ReplaceAll(zipOf(t, "b.jar", zeros[:1<<20]), "\x00\x00\x10\x00", "\x00\x00\xff\x02")},
		"more than 10000 pom.properties":     {"a.jar", overlapping(t, 10_001, name, body)},
		"more than 67108864 bytes in a comp": {"a.jar", leaf + zeros[:64<<20] + leaf},
	} {
		c := content(tt.body, !strings.Contains(text, "compr") && !strings.Contains(text, "in a comp"))
		f, err := Set{}.Extract("java", tt.name, c)
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: got %v and %d packages", text, err, len(f.Packages))
		}
	}
}

func FuzzJava(f *testing.F) {
	name, body := pom("g", "a", "1")
	leaf := zipOf(f, name, body, "META-INF/MANIFEST.MF", "Implementation-Version: 1\r\n 2\r\n", "a/b/C.class", "")
	f.Add([]byte(leaf))
	f.Add([]byte(zipOf(f, "=b.jar", leaf, "c.war", leaf)))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := Set{}.Extract("java", "a-1.jar", content(string(b), true))
		for _, p := range list.Packages {
			if p.Name == "" || p.Version == "" || len(p.Path) > inventory.MaxText {
				t.Errorf("%+v, %v", p, err)
			}
		}
	})
}

func TestManifest(t *testing.T) {
	got := manifestOf([]byte("Implementation-Version: 1.2\n .3\nBundle-Version: 4\n\nBundle-Version: 5\n"))
	if fmt.Sprint(got) != "map[Bundle-Version:4 Implementation-Version:1.2.3]" {
		t.Errorf("got %v", got)
	}
}
