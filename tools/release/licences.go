package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"

	"github.com/belay-project/belay/tools/bom"
)

// licence is what a module may be used under.
type licence struct {
	module bom.Module
	id     string // SPDX expression
	texts  []string
}

// allowed are the licences under which something may be linked in. What a program is linked with has to go
// with Apache-2.0; MPL-2.0 asks for the source of its own files, which the module has unchanged.
var allowed = []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0", "Unlicense", "BSL-1.0", "CC0-1.0"}

// chosen are modules for which not all files that look like a licence are one of what is linked in, with
// what was read there.
var chosen = map[string]string{
	"github.com/opencontainers/go-digest": "Apache-2.0", // LICENSE.docs is of its documentation
	"github.com/spdx/tools-golang":        "Apache-2.0", // or GPL-2.0-or-later, as the user likes; LICENSE-docs is of its documentation
	// "the BSD 3-clause license or the GPLv2 license" (License, in the module).
	"kernel.org/pub/linux/libs/security/libcap/psx": "BSD-3-Clause",
}

// licenceFile is what the files are called that hold a licence or are asked to go with it.
var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice)([-.].*)?$`)

// minCover is how much of a file must be the text of known licences, in percent: the rest is names and years.
const minCover = 75

// licences finds each module's in the module cache, where the build had it from.
//
// Errors: a module that has none, or one that is not in allowed. Nothing is let through unread.
func licences(modules []bom.Module) ([]licence, error) {
	cache, goroot, err := sources()
	if err != nil {
		return nil, err
	}
	var out []licence
	var bad []error
	for _, m := range modules {
		dir := filepath.Join(cache, escape(m.Path)+"@"+escape(m.Version))
		if m.Path == bom.Std {
			dir = goroot
		}
		l, err := licenceOf(m, dir)
		if err != nil {
			bad = append(bad, err)
			continue
		}
		out = append(out, l)
	}
	return out, errors.Join(bad...)
}

// sources says where the modules and the standard library are that were linked in.
func sources() (cache, goroot string, err error) {
	goCommand := os.Getenv("GO")
	if goCommand == "" {
		goCommand = "go"
	}
	raw, err := exec.Command(goCommand, "env", "GOMODCACHE", "GOROOT").Output()
	if err != nil {
		return "", "", fmt.Errorf("find the sources of what is linked in: %w", err)
	}
	cache, goroot, _ = strings.Cut(strings.TrimSpace(string(raw)), "\n")
	return cache, goroot, nil
}

// escape writes a path or a version as the module cache does: !x for X.
//
// Source: golang.org/x/mod/module, "Escaped Paths".
func escape(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r >= 'A' && r <= 'Z' {
			b.WriteByte('!')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

func licenceOf(m bom.Module, dir string) (licence, error) {
	l := licence{module: m}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return l, fmt.Errorf("%s: %w", m.Path, err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() || !licenceFile.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return l, err
		}
		l.texts = append(l.texts, strings.TrimSpace(string(text)))
		cover := licensecheck.Scan(text)
		if cover.Percent < minCover {
			continue
		}
		for _, match := range cover.Match {
			ids = append(ids, match.ID)
		}
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if id := chosen[m.Path]; id != "" {
		ids = []string{id}
	}
	if len(ids) == 0 {
		return l, fmt.Errorf("%s@%s: no licence is recognised in %s; fix: read it, and name it in tools/release/licences.go or take the module out", m.Path, m.Version, dir)
	}
	for _, id := range ids {
		if !slices.Contains(allowed, id) {
			return l, fmt.Errorf("%s@%s: the licence %s is not one that may be linked in; fix: take the module out, or decide that it may (tools/release/licences.go)", m.Path, m.Version, id)
		}
	}
	l.id = strings.Join(ids, " AND ")
	return l, nil
}

// writeNotices writes a table, and then every text once.
func writeNotices(w io.Writer, found []licence) error {
	var b strings.Builder
	b.WriteString("What Belay's programs are linked with, and its licences. Belay's own: LICENSE, and bpf/LICENSE.* for the kernel side.\n\n")
	users := map[string][]string{}
	var texts []string
	for _, l := range found {
		fmt.Fprintf(&b, "%s %s: %s\n", l.module.Path, l.module.Version, l.id)
		for _, t := range l.texts {
			if users[t] == nil {
				texts = append(texts, t)
			}
			users[t] = append(users[t], l.module.Path)
		}
	}
	for _, t := range texts {
		fmt.Fprintf(&b, "\n%s\n%s\n\n%s\n", strings.Repeat("=", 78), strings.Join(users[t], "\n"), t)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
