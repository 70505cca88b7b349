package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Annotations that others have made usual.
const (
	safeToEvict    = "cluster-autoscaler.kubernetes.io/safe-to-evict"
	safeVolumes    = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
	doNotDisrupt   = "karpenter.sh/do-not-disrupt"
	hostnameLabel  = corev1.LabelHostname
	mirrorPod      = corev1.MirrorPodAnnotationKey
	systemPriority = 2_000_000_000 // of the system-… classes; user classes are below, k8s.io/api scheduling
)

// judge says why pods stay. It asks about a namespace once, so one is for one look at the node.
type judge struct {
	p        *Placer
	node     *corev1.Node
	siblings map[string]answer[corev1.Pod]
	budgets  map[string]answer[policyv1.PodDisruptionBudget]
}

type answer[T any] struct {
	items []T
	err   error
}

func newJudge(p *Placer, node *corev1.Node) *judge {
	return &judge{p: p, node: node, siblings: map[string]answer[corev1.Pod]{}, budgets: map[string]answer[policyv1.PodDisruptionBudget]{}}
}

// stays returns why a pod may not be asked to leave, or nothing.
func (j *judge) stays(ctx context.Context, pod *corev1.Pod) string {
	if pod.DeletionTimestamp != nil {
		return "it is leaving: it is being deleted"
	}
	why := j.tied(ctx, pod)
	if len(why) == 0 {
		if now, _ := j.disrupts(ctx, pod); now != "" {
			why = append(why, now)
		}
	}
	return strings.Join(why, "; ")
}

// tied are all reasons that do not pass by themselves.
func (j *judge) tied(ctx context.Context, pod *corev1.Pod) []string {
	why := ofController(pod)
	if pod.Status.Phase != corev1.PodRunning {
		why = append(why, "it is not running: "+string(pod.Status.Phase))
	} else if !ready(pod) {
		why = append(why, "it is not ready: leaving would not mend that")
	}
	if pod.Spec.Priority != nil && *pod.Spec.Priority >= systemPriority {
		why = append(why, "it is critical to the cluster: priority class "+pod.Spec.PriorityClassName)
	}
	if pod.Annotations[safeToEvict] == "false" {
		why = append(why, safeToEvict+" is false")
	}
	if pod.Annotations[doNotDisrupt] == "true" {
		why = append(why, doNotDisrupt+" is true")
	}
	if slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool { return tolerates(&t) }) {
		why = append(why, "it tolerates the taint of a full node: it could come right back")
	}
	if j.boundBySelector(pod) {
		why = append(why, "it may run on this node alone")
	}
	return append(why, j.stored(ctx, pod)...)
}

func ofController(pod *corev1.Pod) []string {
	owner := metav1.GetControllerOf(pod)
	_, mirror := pod.Annotations[mirrorPod]
	switch {
	case mirror || owner != nil && owner.Kind == "Node":
		return []string{"it is static: the kubelet has it from a file of this node"}
	case owner == nil:
		return []string{"it is bare: it has no controller that would make it again elsewhere"}
	case owner.Kind == "DaemonSet":
		return []string{"it is of a DaemonSet: every node has its own"}
	case owner.Kind == "Job":
		return []string{"it is of a Job: its work would begin again"}
	}
	return nil
}

func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// tolerates reports whether a toleration is one of the taint that [Placer.Cordon] sets.
func tolerates(t *corev1.Toleration) bool {
	switch {
	case t.Effect != "" && t.Effect != corev1.TaintEffectNoSchedule:
		return false
	case t.Key == "" && t.Operator == corev1.TolerationOpExists:
		return true
	}
	return t.Key == taintKey && (t.Operator == corev1.TolerationOpExists || t.Value == "")
}

// stored says which data of the pod is on this node.
func (j *judge) stored(ctx context.Context, pod *corev1.Pod) (why []string) {
	safe := strings.Split(pod.Annotations[safeVolumes], ",")
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.HostPath != nil:
			why = append(why, fmt.Sprintf("volume %s is a path of this node: %s", v.Name, v.HostPath.Path))
		case v.EmptyDir != nil && !slices.Contains(safe, v.Name):
			why = append(why, fmt.Sprintf("volume %s would be lost: emptyDir; if it may be, name it in %s", v.Name, safeVolumes))
		case v.Ephemeral != nil:
			why = append(why, fmt.Sprintf("volume %s would be lost: its claim goes with the pod", v.Name))
		case v.PersistentVolumeClaim != nil:
			if s := j.claimed(ctx, pod.Namespace, v.PersistentVolumeClaim.ClaimName); s != "" {
				why = append(why, fmt.Sprintf("volume %s %s", v.Name, s))
			}
		}
	}
	return why
}

func (j *judge) claimed(ctx context.Context, namespace, name string) string {
	c, err := j.p.api.claim(ctx, namespace, name)
	if err != nil {
		return fmt.Sprintf("is not known to be elsewhere: claim %s: %v", name, err)
	}
	v, err := j.p.api.volume(ctx, c.Spec.VolumeName)
	switch {
	case err != nil:
		return fmt.Sprintf("is not known to be elsewhere: volume of claim %s: %v", name, err)
	case v.Spec.Local != nil, v.Spec.HostPath != nil:
		return fmt.Sprintf("is on a disk of this node: claim %s", name)
	case v.Spec.NodeAffinity != nil && v.Spec.NodeAffinity.Required != nil && j.bound(v.Spec.NodeAffinity.Required.NodeSelectorTerms):
		return fmt.Sprintf("can be reached from this node alone: claim %s", name)
	}
	return ""
}

func (j *judge) boundBySelector(pod *corev1.Pod) bool {
	if name, ok := pod.Spec.NodeSelector[hostnameLabel]; ok && j.named(name) {
		return true
	}
	a := pod.Spec.Affinity
	return a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil &&
		j.bound(a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms)
}

// bound reports whether each of the terms names this node: drivers of local disks and people use different labels for it.
func (j *judge) bound(terms []corev1.NodeSelectorTerm) bool {
	only := func(r corev1.NodeSelectorRequirement) bool {
		return r.Operator == corev1.NodeSelectorOpIn && len(r.Values) == 1 && j.named(r.Values[0])
	}
	return len(terms) > 0 && !slices.ContainsFunc(terms, func(t corev1.NodeSelectorTerm) bool {
		return !slices.ContainsFunc(t.MatchExpressions, only) && !slices.ContainsFunc(t.MatchFields, only)
	})
}

func (j *judge) named(s string) bool { return s == j.node.Name || s == j.node.Labels[hostnameLabel] }

// disrupts says whether nobody would serve in the pod's place, and whether that passes by itself.
func (j *judge) disrupts(ctx context.Context, pod *corev1.Pod) (why string, passes bool) {
	budgets, err := j.budgetsOf(ctx, pod)
	switch {
	case err != nil:
		return "its disruption budgets are not known: " + err.Error(), false
	case len(budgets) > 1:
		return fmt.Sprintf("it has several disruption budgets (%s, %s), which the Eviction API refuses", budgets[0].Name, budgets[1].Name), false
	case len(budgets) == 1 && budgets[0].Status.DisruptionsAllowed < 1:
		return fmt.Sprintf("disruption budget %s allows none now", budgets[0].Name), true
	case len(budgets) == 1 || j.p.o.SoleReplicas:
		return "", false
	}
	siblings, err := j.siblingsOf(ctx, pod)
	if err != nil {
		return "whether others serve in its place is not known: " + err.Error(), false
	}
	if !slices.ContainsFunc(siblings, func(s corev1.Pod) bool { return s.UID != pod.UID && ready(&s) && s.DeletionTimestamp == nil }) {
		return "no other of its " + metav1.GetControllerOf(pod).Kind + " is ready: nobody would serve meanwhile; if that may be, give it a disruption budget", false
	}
	return "", false
}

func (j *judge) budgetsOf(ctx context.Context, pod *corev1.Pod) ([]policyv1.PodDisruptionBudget, error) {
	a, ok := j.budgets[pod.Namespace]
	if !ok {
		a.items, a.err = j.p.api.budgets(ctx, pod.Namespace)
		j.budgets[pod.Namespace] = a
	}
	if a.err != nil {
		return nil, a.err
	}
	var out []policyv1.PodDisruptionBudget
	for i := range a.items {
		s, err := metav1.LabelSelectorAsSelector(a.items[i].Spec.Selector)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.items[i].Name, err)
		}
		if s.Matches(labels.Set(pod.Labels)) {
			out = append(out, a.items[i])
		}
	}
	return out, nil
}

// siblingsOf returns the pods of the pod's controller, itself among them.
func (j *judge) siblingsOf(ctx context.Context, pod *corev1.Pod) ([]corev1.Pod, error) {
	a, ok := j.siblings[pod.Namespace]
	if !ok {
		a.items, a.err = j.p.api.pods(ctx, pod.Namespace, metav1.ListOptions{})
		j.siblings[pod.Namespace] = a
	}
	if a.err != nil {
		return nil, a.err
	}
	owner := metav1.GetControllerOf(pod)
	return slices.DeleteFunc(slices.Clone(a.items), func(s corev1.Pod) bool {
		o := metav1.GetControllerOf(&s)
		return o == nil || o.UID != owner.UID
	}), nil
}
