// Command image lays out the container image of the agent, for each architecture that it is given
// programs of, and writes it as an OCI layout in a tar file, with a bill of materials attached to each
// platform's image, and as a file for docker load each. It starts no engine, needs no root and no
// network, and the same programs give the same bytes.
//
//	SOURCE_DATE_EPOCH=… image -version V -out dist -policies policies amd64=DIR arm64=DIR
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/belay-project/belay/tools/bom"
)

func main() {
	var b build
	flag.StringVar(&b.version, "version", "dev", "of the programs")
	flag.StringVar(&b.out, "out", "dist", "directory that is written to")
	flag.StringVar(&b.policies, "policies", "policies", "directory of the policies that ship")
	flag.StringVar(&b.units, "units", "deploy/systemd", "directory of the units for nodes")
	flag.StringVar(&b.licences, "licences", "LICENSE,bpf/LICENSE.*", "licences of the programs and of the kernel side, patterns separated by commas")
	flag.StringVar(&b.notices, "notices", "", "file with the licences of what is linked in (default: none)")
	flag.StringVar(&b.name, "name", "belay-agent", "repository of the image in its files")
	flag.Parse()
	if err := run(&b, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(b *build, args []string) (err error) {
	if b.time, err = bom.Epoch(); err != nil {
		return err
	}
	for _, a := range args {
		arch, dir, ok := strings.Cut(a, "=")
		if !ok || arch == "" || dir == "" {
			return fmt.Errorf("%q is not ARCH=DIRECTORY", a)
		}
		b.platforms = append(b.platforms, platform{arch: arch, dir: dir})
	}
	if len(b.platforms) == 0 {
		return errors.New("no ARCH=DIRECTORY is given")
	}
	files, err := b.write()
	for _, f := range files {
		fmt.Println(f)
	}
	return err
}
