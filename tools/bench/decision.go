package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

const decisionText = `
The code of the kernel side, run 100,000 times in a loop inside one program of type raw_tp
(LSM programs cannot be run so), the empty loop taken off, the least of several runs. The task
that is judged is the benchmark itself, the file its own program, under a policy with every
rule on that lets it pass. A directory rule of exec makes every ancestor of the file be looked up, one of
files those at the depths of such rules. An open that is judged is a walk, two or three lookups of some 35 ns, and for each
component four reads of kernel memory by helpers and a hash of its name.
`

// gobench runs benchmarks of internal/enforce and returns their metrics by
// "Name/sub unit".
func (b *bench) gobench(ctx context.Context, program, pattern, benchtime string, env ...string) (map[string]float64, error) {
	cmd := exec.CommandContext(ctx, program, "-test.run", "^$", "-test.bench", pattern, "-test.benchtime", benchtime)
	cmd.Dir = filepath.Join(b.source, "internal", "enforce")
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("benchmarks %s: %w\n%s", pattern, err, out)
	}
	m := map[string]float64{}
	for sc := bufio.NewScanner(bytes.NewReader(out)); sc.Scan(); {
		f := strings.Fields(sc.Text())
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(f[0], "Benchmark")
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			name = name[:i] // GOMAXPROCS
		}
		for i := 2; i+1 < len(f); i += 2 {
			v, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				return nil, fmt.Errorf("benchmark output %q: %w", sc.Text(), err)
			}
			m[name+" "+f[i+1]] = v
		}
	}
	if len(m) == 0 {
		return nil, fmt.Errorf("benchmarks %s printed no figure:\n%s", pattern, out)
	}
	return m, nil
}

// deep copies the benchmarks to a path of n components below the file system's root,
// since a path rule's cost grows with them.
func (b *bench) deep(n int) (string, error) {
	dir := b.dir
	have := strings.Count(dir, "/")
	for i := have; i < n-1; i++ {
		dir = filepath.Join(dir, fmt.Sprintf("dir-%d", i))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	to := filepath.Join(dir, "program")
	return to, copyFile(filepath.Join(b.bin, "enforce.test"), to)
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}

func decisions(ctx context.Context, b *bench) ([]figure, error) {
	const unit = " ns/decision"
	at4, err := b.deep(4)
	if err != nil {
		return nil, err
	}
	m, err := b.gobench(ctx, at4, "^Benchmark(Unconfined|Confined|Files|PathRules)$", "7x")
	if err != nil {
		return nil, err
	}
	ns := func(name string) float64 { return m[name+unit] }
	out := []figure{
		atMost("Unconfined task: its label (exec and LSM hooks)", ns("Unconfined/label"), 30, "%.0f ns"),
		atMost("Unconfined task: its cgroup (cgroup programs)", ns("Unconfined/cgroup"), 60, "%.0f ns"),
		plain("Confined task: its label", "%.0f ns", ns("Confined/label")),
		plain("… and its container and policy", "%.0f ns", ns("Confined/policy")),
		plain("… and the file's origin and name", "%.0f ns", ns("Confined/file")),
		plain("Confined open: label, and whether the file is a key", "%.0f ns", ns("Confined/open")),
		atMost("… and of files' rules, where nobody has some", ns("Files/none"), 30, "%.0f ns"),
		plain("… and where there are some, of other acts", "%.0f ns", ns("Files/other-acts")),
		// 150 ns, and 30 for each of the path's directories.
		atMost("… and judged by a rule that denies reading and by 100 paths, at a path of 4 components", ns("Files/judged"), 150+4*30, "%.0f ns"),
		atMost("Allowed exec, no path rules", ns("PathRules/files/0"), 2000, "%.0f ns"),
	}
	for _, kind := range []string{"files", "dirs"} {
		label := "path rules on files"
		if kind == "dirs" {
			label = "path rules, one on a directory"
		}
		for _, n := range []int{10, 100, 1000, 10000} {
			v := ns(fmt.Sprintf("PathRules/%s/%d", kind, n))
			out = append(out, atMost(fmt.Sprintf("Allowed exec of a path of 4 components, %d %s", n, label), v, 2000, "%.0f ns"))
		}
		flat := ns("PathRules/"+kind+"/10000") / ns("PathRules/"+kind+"/10")
		f := figure{what: "Flat: 10,000 against 10 " + label, value: fmt.Sprintf("%.2f×", flat), target: "≤ 1.10×", met: flat <= 1.10}
		out = append(out, f)
	}
	for _, n := range []int{8, 16} {
		prog, err := b.deep(n)
		if err != nil {
			return out, err
		}
		m, err := b.gobench(ctx, prog, "^BenchmarkPathRules$/^(files|dirs)$/^100$", "7x")
		if err != nil {
			return out, err
		}
		out = append(out, plain(fmt.Sprintf("A path of %d components, 100 rules on files / one on a directory", n),
			"%.0f / %.0f ns", m["PathRules/files/100"+unit], m["PathRules/dirs/100"+unit]))
	}
	return out, nil
}
