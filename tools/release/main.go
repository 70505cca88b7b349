// Command release writes what a release has besides programs, packages and the image: bills of
// materials, the licences of what is linked in, the notes, and the checksums. build.sh calls it; it
// needs no network, and the same tree gives the same bytes.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/belay-project/belay/tools/bom"
)

const usage = `usage:
  release licences PROGRAM...                 texts of the licences of what the programs hold, on standard output
  release sbom -version V -arch A -out FILE PROGRAM
  release notes [-version V] CHANGELOG        a version's section, or "Unreleased"
  release sums DIRECTORY                      SHA256SUMS of the files in it
  release govulndb -out DIRECTORY OSVDIR      OSV records of Go, as govulncheck -db file:// reads them
`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	fs := flag.NewFlagSet(args[0], flag.ContinueOnError)
	version := fs.String("version", "", "of the release")
	arch := fs.String("arch", "", "of the program")
	out := fs.String("out", "", "file that is written")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	rest := fs.Args()
	if len(rest) == 0 {
		return errors.New(usage)
	}
	switch args[0] {
	case "licences":
		programs, err := read(rest)
		if err != nil {
			return err
		}
		found, err := licences(bom.WithStd(programs))
		if err != nil {
			return err
		}
		return writeNotices(os.Stdout, found)
	case "sbom":
		return bill(*version, *arch, *out, rest)
	case "notes":
		text, err := os.ReadFile(rest[0])
		if err != nil {
			return err
		}
		notes, err := section(string(text), *version)
		if err != nil {
			return err
		}
		_, err = fmt.Print(notes)
		return err
	case "sums":
		return sums(rest[0])
	case "govulndb":
		return govulndb(rest[0], *out)
	}
	return errors.New(usage)
}

func read(files []string) ([]bom.Program, error) {
	var out []bom.Program
	for _, f := range files {
		p, err := bom.Read(f)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// bill writes the bill of materials of one program.
func bill(version, arch, out string, files []string) error {
	at, err := bom.Epoch()
	if err != nil {
		return err
	}
	programs, err := read(files)
	if err != nil {
		return err
	}
	found, err := licences(bom.WithStd(programs))
	if err != nil {
		return err
	}
	ids := map[string]string{}
	for _, l := range found {
		ids[l.module.Path] = l.id
	}
	raw, err := bom.Write(bom.Options{Name: filepath.Base(files[0]), Version: version, Arch: arch, Time: at, Licences: ids}, programs)
	if err != nil {
		return err
	}
	return os.WriteFile(out, raw, 0o644)
}
