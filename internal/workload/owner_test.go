package workload

import (
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
)

func TestWorkloadOf(t *testing.T) {
	for _, tt := range []struct {
		name, pod string
		labels    map[string]string
		want      string
	}{
		{"deployment", "web-front-7d4b9c6f5-x2x4z", map[string]string{"app": "web", "pod-template-hash": "7d4b9c6f5"}, "deployment/web-front"},
		{"statefulset", "db-main-0", map[string]string{"statefulset.kubernetes.io/pod-name": "db-main-0", "controller-revision-hash": "db-main-5c9d"}, "statefulset/db-main"},
		{"daemonset", "node-agent-abcde", map[string]string{"controller-revision-hash": "7f6", "pod-template-generation": "1"}, "daemonset/node-agent"},
		{"job", "load-29012345-k8s9x", map[string]string{"batch.kubernetes.io/job-name": "load-29012345", "job-name": "load-29012345"}, "job/load-29012345"},
		{"job before 1.27", "load-k8s9x", map[string]string{"job-name": "load"}, "job/load"},
		{"indexed job", "load-3-k8s9x", map[string]string{"batch.kubernetes.io/job-name": "load"}, "job/load"},
		{"a pod of its own", "shell", nil, ""},
		{"a pod of its own with a dash", "my-shell", map[string]string{"app": "web"}, ""},
		{"a bare replica set", "web-x2x4z", map[string]string{"app": "web"}, ""},
		{"another's hash", "web-7d4b9c6f5-x2x4z", map[string]string{"pod-template-hash": "000000000"}, ""},
		{"a hash and no name", "-7d4b9c6f5-x2x4z", map[string]string{"pod-template-hash": "7d4b9c6f5"}, ""},
		{"another's job", "web-x2x4z", map[string]string{"job-name": "load"}, ""},
		{"another's pod", "db-0", map[string]string{"statefulset.kubernetes.io/pod-name": "db-1"}, ""},
		{"no pod", "", map[string]string{"statefulset.kubernetes.io/pod-name": ""}, ""},
		{"shortened", strings.Repeat("a", 57) + "-x2x4z", map[string]string{"pod-template-hash": "7d4b9c6f5"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := workloadOf(tt.pod, tt.labels); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// A container has the workload of its pod, whose labels are on the sandbox.
func TestContainersWorkload(t *testing.T) {
	id, sandbox := strings.Repeat("a", 64), strings.Repeat("b", 64)
	pod := map[string]string{labelPodName: "web-7d4b9c6f5-x2x4z", labelPodNamespace: "shop", labelPodUID: "u"}
	with := func(kv ...string) map[string]string {
		out := map[string]string{}
		for k, v := range pod {
			out[k] = v
		}
		for i := 0; i < len(kv); i += 2 {
			out[kv[i]] = kv[i+1]
		}
		return out
	}
	r := records{containers: []containers.Container{
		{ID: sandbox, Labels: with(labelCRIKind, kindSandbox, labelTemplateHash, "7d4b9c6f5")},
		{ID: id, SandboxID: sandbox, Labels: with(labelContainerName, "nginx")},
	}}
	for _, rec := range r.containers {
		c, ok := r.container(rec)
		if !ok || c.Workload != "deployment/web" {
			t.Errorf("%s: workload %q (%v), want deployment/web", rec.ID[:4], c.Workload, ok)
		}
		other := c
		other.Workload = ""
		if c.Equal(other) {
			t.Error("a container with another workload is equal")
		}
	}
	if c := bound(Container{Workload: strings.Repeat("x", maxNameBytes+1)}); c.Workload != "" || c.Cut != 1 {
		t.Errorf("%d bytes of a workload are kept, %d cut", len(c.Workload), c.Cut)
	}
}
