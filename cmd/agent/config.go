package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// onlyGiven are flags that a file cannot have: one that ended enforcement at each start, for one.
var onlyGiven = []string{"config", "help", "unload"}

// fromFile sets the flags that the command line does not give from a file: a YAML mapping of flags, without
// their dashes, to a value or, for those that may be repeated, a list.
//
// Errors: with the file and the line.
func fromFile(flags *pflag.FlagSet, path string) error {
	raw, err := readOwn(path)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: it has more than one document; fix: keep one", path)
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return fmt.Errorf("%s:%d: it is no mapping of flags to values; fix: write lines such as run-dir: /run/belay", path, top.Line)
	}
	given, seen := map[string]bool{}, map[string]bool{}
	flags.Visit(func(f *pflag.Flag) { given[f.Name] = true })
	for i := 0; i+1 < len(top.Content); i += 2 {
		name := top.Content[i].Value
		fail := func(format string, args ...any) error {
			return fmt.Errorf("%s:%d: %w", path, top.Content[i].Line, fmt.Errorf(format, args...))
		}
		f := flags.Lookup(name)
		if f == nil || slices.Contains(onlyGiven, name) {
			return fail("%q is no flag that a file can have; fix: write one that belay-agent run --help lists, without its dashes", name)
		}
		if seen[name] {
			return fail("%s is there twice; fix: keep one, with a list if it may be repeated", name)
		}
		seen[name] = true
		texts, err := textsOf(f, top.Content[i+1])
		if err != nil {
			return fail("%s %w", name, err)
		}
		if given[name] {
			continue
		}
		for _, text := range texts {
			if err := f.Value.Set(text); err != nil {
				return fail("%s: %w; fix: see belay-agent run --help", name, err)
			}
		}
	}
	return nil
}

// textsOf returns the values that a file gives a flag.
func textsOf(f *pflag.Flag, n *yaml.Node) (texts []string, err error) {
	_, repeats := f.Value.(pflag.SliceValue)
	list := []*yaml.Node{n}
	if repeats && n.Kind == yaml.SequenceNode {
		list = n.Content
	}
	for _, v := range list {
		switch {
		case v.Kind == yaml.ScalarNode && v.Tag != "!!null":
			texts = append(texts, v.Value)
		case repeats:
			return nil, errors.New("takes one value, or a list of them")
		default:
			return nil, errors.New("takes one value")
		}
	}
	return texts, nil
}

// readOwn reads a file that nobody may write but who runs this, and root: its flags name programs that the
// agent starts.
func readOwn(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || !st.Mode().IsRegular() || sys.Uid != 0 && int(sys.Uid) != os.Geteuid() || st.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s: it is no file, or others than root may write it; fix: chown root %s && chmod go-w %s", path, path, path)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(raw) > maxConfig {
		err = fmt.Errorf("%s: it has more than %d bytes", path, maxConfig)
	}
	return raw, err
}

// maxConfig bounds a file of flags.
const maxConfig = 1 << 20
