package manpage

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

func tree() *cobra.Command {
	root := &cobra.Command{Use: "tool", Short: "Do things"}
	root.PersistentFlags().String("run-dir", "/run/x", "`directory` of sockets")
	do := &cobra.Command{Use: "do NAME", Short: "Do one", Long: ".first is no request\n'nor this, nor C:\\n", Example: "  tool do it", Run: func(*cobra.Command, []string) {}}
	do.Flags().BoolP("all", "a", false, "all of them")
	root.AddCommand(do, Command(1))
	return root
}

func TestWrite(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "86400")
	dir := t.TempDir()
	root := tree()
	root.SetArgs([]string{"man", dir})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 2 {
		t.Errorf("%v: want a page of tool and one of tool do, and none of the hidden command", entries)
	}
	b, err := os.ReadFile(filepath.Join(dir, "tool-do.1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`.TH "TOOL-DO" "1" "1970-01-02"`, "tool\\-do \\- Do one", "\n\\&.first", "\n\\&'nor", `C:\en`,
		"\\-a, \\-\\-all\nall of them", "\\-\\-run\\-dir directory\ndirectory of sockets (default /run/x)", ".BR tool (1)",
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %q in\n%s", want, b)
		}
	}
}

// modes is a flag of a few words.
type modes string

func (m *modes) String() string { return string(*m) }
func (m *modes) Type() string   { return "text|json" }
func (m *modes) Set(s string) error {
	if s != "text" && s != "json" {
		return errors.New("want text or json")
	}
	return nil
}

func TestUnderstands(t *testing.T) {
	for line, want := range map[string]string{
		"do it --all -o json": "", "do it -a --output=text": "", "do it -- -x": "", "do -": "",
		"do it --none": "no flag --none", "do it -x": "no flag -x", "undo it": "unknown command",
		"both sub": "", "both subb": "no command \"subb\"", "both NAME": "", "both web --help": "",
		"do it -o junit": "want text or json", "do it --output=xml": "want text or json", "do it -o": "want text or json",
	} {
		root := tree()
		root.Commands()[0].Flags().VarP(new(modes), "output", "o", "a form")
		both := &cobra.Command{Use: "both NAME", Run: func(*cobra.Command, []string) {}}
		both.AddCommand(&cobra.Command{Use: "sub", Run: func(*cobra.Command, []string) {}})
		root.AddCommand(both)
		err := Understands(root, strings.Fields(line))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
	}
}

func TestDate(t *testing.T) {
	now := time.Unix(5, 0)
	if got, err := date("", now); err != nil || !got.Equal(now) {
		t.Errorf("date of no variable = %v, %v, want now", got, err)
	}
	if _, err := date("yesterday", now); err == nil {
		t.Error("SOURCE_DATE_EPOCH=yesterday is taken")
	}
}
