package workload

import "strings"

// Labels by which the controllers of Kubernetes know their pods. The pod's own name has that of what it is of.
//
// Source: k8s.io/api/apps/v1, types.go; k8s.io/api/batch/v1, types.go (the form without a prefix is of Kubernetes before 1.27).
const (
	labelTemplateHash       = "pod-template-hash"                  // of a Deployment's ReplicaSet
	labelStatefulPod        = "statefulset.kubernetes.io/pod-name" // of a StatefulSet's pod
	labelTemplateGeneration = "pod-template-generation"            // of a DaemonSet's pod
	labelJob                = "batch.kubernetes.io/job-name"
	labelJobBefore          = "job-name"
)

// generated is the length of what the API server puts behind a name that it makes one of its own of.
//
// Source: k8s.io/apiserver/pkg/storage/names, generate.go.
const generated = 5

// workloadOf tells what a pod is of, as "deployment/web", from its name and its labels; "" where these do not say:
// a pod of its own, one of another controller, or one whose name was shortened. Who makes a pod chooses both.
func workloadOf(pod string, labels map[string]string) string {
	base, random, ok := cutLast(pod)
	if !ok {
		return ""
	}
	job := labels[labelJob]
	if job == "" {
		job = labels[labelJobBefore]
	}
	kind, name := "", ""
	switch {
	case labels[labelStatefulPod] == pod:
		kind, name = "statefulset", base
	case job != "":
		if strings.HasPrefix(pod, job+"-") { // of an indexed Job with the number between
			kind, name = "job", job
		}
	case len(random) != generated:
	case labels[labelTemplateHash] != "":
		if name, ok = strings.CutSuffix(base, "-"+labels[labelTemplateHash]); ok {
			kind = "deployment"
		}
	case labels[labelTemplateGeneration] != "":
		kind, name = "daemonset", base
	}
	if kind == "" || name == "" {
		return ""
	}
	return kind + "/" + name
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '-')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}
