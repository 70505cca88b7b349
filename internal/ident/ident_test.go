package ident

import (
	"strings"
	"testing"
)

func TestCgroupContainer(t *testing.T) {
	id := strings.Repeat("7a", 32)
	for name, want := range map[string]string{
		id: id, "docker-" + id + ".scope": id, "cri-containerd-" + id + ".scope": id, "libpod-conmon-" + id + ".scope": "",
		"docker-" + id[1:] + ".scope": "", "system.slice": "", "-" + id: "", id + ".scope": "", "docker-" + strings.ToUpper(id) + ".scope": "",
	} {
		if got, ok := CgroupContainer(name); string(got) != want || ok != (want != "") {
			t.Errorf("%s: got %q, %v", name, got, ok)
		}
	}
}
