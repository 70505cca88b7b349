package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// section returns the part of a changelog about a version; version "" or one that is no release is
// what is not released yet.
//
// Errors: the version has no section.
func section(changelog, version string) (string, error) {
	head := "[Unreleased]"
	if version != "" && !strings.ContainsAny(version, "~+") {
		head = "[" + strings.TrimPrefix(version, "v") + "]"
	}
	var b strings.Builder
	in := false
	for line := range strings.Lines(changelog) {
		if strings.HasPrefix(line, "## ") {
			if in {
				break
			}
			in = strings.HasPrefix(line, "## "+head)
		}
		if in {
			b.WriteString(line)
		}
	}
	if b.Len() == 0 {
		return "", fmt.Errorf("the changelog has no section %s; fix: write it before the release", head)
	}
	return strings.TrimSpace(b.String()) + "\n", nil
}

// sums writes SHA256SUMS into a directory, of all files that are in it, in the form of sha256sum.
func sums(dir string) error {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return err
	}
	const name = "SHA256SUMS"
	var b strings.Builder
	for _, e := range entries {
		if !e.Type().IsRegular() || e.Name() == name {
			continue
		}
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%x  %s\n", h.Sum(nil), e.Name())
	}
	return os.WriteFile(filepath.Join(dir, name), []byte(b.String()), 0o644)
}
