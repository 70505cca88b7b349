package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubetesting "k8s.io/client-go/testing"

	"github.com/belay-project/belay/internal/load/place"
)

func TestFake(t *testing.T) {
	c, _ := fakeCluster(t)
	contract(t, c)
}

// contract is what holds of every API server.
func contract(t *testing.T, c *cluster) {
	for _, tt := range []struct {
		name string
		test func(*testing.T, *cluster)
	}{
		{"stays", testStays}, {"claims", testClaims}, {"budgets", testBudgets}, {"sole", testSole}, {"leave", testLeave}, {"stateful", testStateful},
		{"later", testLater}, {"refused", testRefused}, {"back", testBack}, {"not ready", testNotReady}, {"resumed", testResumed}, {"gone", testGone},
		{"cordon", testCordon}, {"pages", testPages}, {"another machine", testAnotherMachine}, {"descheduler", testDescheduler},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, c) })
	}
}

// stays returns why the placer says that a pod stays.
func stays(t *testing.T, p *Placer, pod *corev1.Pod) string {
	t.Helper()
	units, err := p.Units(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(units, func(u place.Unit) bool { return u.ID == string(pod.UID) })
	if i < 0 {
		t.Fatalf("pod %s is not among the units: %+v", pod.Name, units)
	}
	return units[i].Stays
}

func testStays(t *testing.T, c *cluster) {
	p := c.node(t)
	other := c.name("other")
	volume := func(v corev1.VolumeSource) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: v}} }
	}
	owner := func(kind string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.OwnerReferences[0].Kind = kind }
	}
	annotation := func(k, v string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Annotations = map[string]string{k: v} }
	}
	terms := func(values ...string) []corev1.NodeSelectorTerm {
		return []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: values}}}}
	}
	affinity := func(terms []corev1.NodeSelectorTerm) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms}}}
		}
	}
	for _, tt := range []struct {
		name   string
		change func(*corev1.Pod)
		want   string // empty: it may leave
	}{
		{"ordinary", nil, ""},
		{"bare", func(p *corev1.Pod) { p.OwnerReferences = nil }, "it is bare"},
		{"owner that is no controller", func(p *corev1.Pod) { p.OwnerReferences[0].Controller = nil }, "it is bare"},
		{"DaemonSet", owner("DaemonSet"), "it is of a DaemonSet"},
		{"Job", owner("Job"), "it is of a Job"},
		{"mirror", annotation(corev1.MirrorPodAnnotationKey, "x"), "it is static"},
		{"memory", volume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}), "volume data would be lost: emptyDir"},
		{"disk", volume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}), "volume data would be lost: emptyDir"},
		{"disk that may be lost", func(p *corev1.Pod) {
			volume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})(p)
			annotation(safeVolumes, "tmp,data")(p)
		}, ""},
		{"host path that may be lost", func(p *corev1.Pod) {
			volume(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/srv"}})(p)
			annotation(safeVolumes, "data")(p)
		}, "volume data is a path of this node: /srv"},
		{"ephemeral", volume(corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		}}}}), "its claim goes with the pod"},
		{"configuration", volume(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}}), ""},
		{"not safe to evict", annotation(safeToEvict, "false"), "safe-to-evict is false"},
		{"safe to evict", annotation(safeToEvict, "true"), ""},
		{"do not disrupt", annotation(doNotDisrupt, "true"), "do-not-disrupt is true"},
		{"critical", func(p *corev1.Pod) {
			priority := int32(systemPriority)
			p.Spec.PriorityClassName, p.Spec.Priority = "system-cluster-critical", &priority
		}, "priority class system-cluster-critical"},
		{"pending", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }, "it is not running: Pending"},
		{"ended", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, "it is not running: Succeeded"},
		{"not ready", func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }, "it is not ready"},
		{"tolerates all", func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} }, "it could come right back"},
		{"tolerates ours", func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: taintKey, Operator: corev1.TolerationOpExists}}
		}, "it could come right back"},
		{"tolerates others", func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "gpu", Operator: corev1.TolerationOpExists}, {Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}}
		}, ""},
		{"selects this node", func(pod *corev1.Pod) {
			pod.Spec.NodeSelector = map[string]string{corev1.LabelHostname: p.o.Node + ".example.org"}
		}, "on this node alone"},
		{"wants this node", affinity(terms(p.o.Node)), "on this node alone"},
		{"wants one of two", affinity(terms(p.o.Node, other)), ""},
		{"wants this or that", affinity(append(terms(p.o.Node), terms(other)...)), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := c.namespace(t)
			c.pod(t, ns, other, nil)
			pod := c.pod(t, ns, p.o.Node, tt.change)
			if got := stays(t, p, pod); tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("stays %q, want %q", got, tt.want)
			}
			if tt.want == "" {
				return
			}
			if err := leave(t, p, 10*c.short, unit(pod)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("asked to leave: error %v, want %q", err, tt.want)
			}
			if now, err := c.CoreV1().Pods(ns).Get(t.Context(), pod.Name, metav1.GetOptions{}); err != nil || now.DeletionTimestamp != nil {
				t.Errorf("it was evicted: %v", err)
			}
		})
	}
}

func testClaims(t *testing.T, c *cluster) {
	p := c.node(t)
	other := c.name("other")
	affinity := func(value string) *corev1.VolumeNodeAffinity {
		return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "topology.example.org/node", Operator: corev1.NodeSelectorOpIn, Values: []string{value}}},
		}}}}
	}
	csi := corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "disks.example.org", VolumeHandle: "1"}}
	for _, tt := range []struct {
		name   string
		volume *corev1.PersistentVolumeSpec // nil: the claim has none
		want   string
	}{
		{"network", &corev1.PersistentVolumeSpec{PersistentVolumeSource: csi, NodeAffinity: affinity("zone-a")}, ""},
		{"local", &corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/mnt"}}, NodeAffinity: affinity(p.o.Node)}, "is on a disk of this node"},
		{"host path", &corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/mnt"}}}, "is on a disk of this node"},
		{"driver of local disks", &corev1.PersistentVolumeSpec{PersistentVolumeSource: csi, NodeAffinity: affinity(p.o.Node)}, "can be reached from this node alone"},
		{"lost", nil, "is not known to be elsewhere"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := c.namespace(t)
			size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
			modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
			if tt.volume != nil {
				v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: c.name("pv")}, Spec: *tt.volume}
				v.Spec.Capacity, v.Spec.AccessModes = size, modes
				if _, err := c.CoreV1().PersistentVolumes().Create(t.Context(), v, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
				claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: ns}, Spec: corev1.PersistentVolumeClaimSpec{
					VolumeName: v.Name, AccessModes: modes, Resources: corev1.VolumeResourceRequirements{Requests: size},
				}}
				if _, err := c.CoreV1().PersistentVolumeClaims(ns).Create(t.Context(), claim, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			c.pod(t, ns, other, nil)
			pod := c.pod(t, ns, p.o.Node, func(p *corev1.Pod) {
				p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "db"}}}}
			})
			if got := stays(t, p, pod); tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("stays %q, want %q", got, tt.want)
			}
		})
	}
}

func testBudgets(t *testing.T, c *cluster) {
	p := c.node(t)
	for _, tt := range []struct {
		name    string
		allowed []int32
		want    string
		later   bool
	}{
		{"allows", []int32{1}, "", false},
		{"allows none", []int32{0}, "allows none now", true},
		{"two", []int32{1, 1}, "several disruption budgets", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := c.namespace(t)
			pod := c.pod(t, ns, p.o.Node, nil)
			for _, n := range tt.allowed {
				c.budget(t, ns, n, true)
			}
			if got := stays(t, p, pod); tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("stays %q, want %q", got, tt.want)
			}
			if tt.want == "" {
				return
			}
			err := leave(t, p, 10*c.short, unit(pod))
			if _, later := errors.AsType[*place.Later](err); later != tt.later || !strings.Contains(fmt.Sprint(err), tt.want) {
				t.Errorf("asked to leave: %T %v, want later: %t", err, err, tt.later)
			}
		})
	}
}

// testSole: who has no budget and no ready sibling would be missed.
func testSole(t *testing.T, c *cluster) {
	p := c.node(t)
	ns := c.namespace(t)
	pod := c.pod(t, ns, p.o.Node, nil)
	c.pod(t, ns, c.name("other"), func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse })
	c.pod(t, ns, c.name("other"), func(p *corev1.Pod) { p.OwnerReferences[0].UID = "another" })
	if got := stays(t, p, pod); !strings.Contains(got, "no other of its ReplicaSet is ready") {
		t.Errorf("stays %q", got)
	}
	p.o.SoleReplicas = true
	if got := stays(t, p, pod); got != "" {
		t.Errorf("stays %q, where that is allowed", got)
	}
}

func testLeave(t *testing.T, c *cluster) {
	p := c.node(t)
	ns, other := c.namespace(t), c.name("other")
	c.pod(t, ns, other, nil)
	pod := c.pod(t, ns, p.o.Node, nil)
	c.work(t, ns, func() string { return other })
	if err := leave(t, p, 10*c.short, unit(pod)); err != nil {
		t.Fatal(err)
	}
	l, err := c.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Items) != 2 || slices.ContainsFunc(l.Items, func(q corev1.Pod) bool { return q.UID == pod.UID || q.Spec.NodeName != other || !ready(&q) }) {
		t.Errorf("it returned before two were ready elsewhere: %+v", l.Items)
	}
}

// testStateful: the replacement has the same name.
func testStateful(t *testing.T, c *cluster) {
	p := c.node(t)
	ns, other := c.namespace(t), c.name("other")
	c.budget(t, ns, 1, true)
	same := func(p *corev1.Pod) { p.Name = "db-0"; p.OwnerReferences[0].Kind = "StatefulSet" }
	pod := c.pod(t, ns, p.o.Node, same)
	if c.version() != "" {
		same = func(p *corev1.Pod) { p.Name, p.UID, p.OwnerReferences[0].Kind = "db-0", "second", "StatefulSet" }
	}
	done := make(chan error, 1)
	go func() { done <- leave(t, p, 10*c.short, unit(pod)) }()
	for {
		now, err := c.CoreV1().Pods(ns).Get(t.Context(), "db-0", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if now.DeletionTimestamp != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	zero := int64(0)
	if err := c.CoreV1().Pods(ns).Delete(t.Context(), "db-0", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	c.pod(t, ns, other, same)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// testLater: a budget that its controller has not looked at yet is refused with 429 and a Retry-After.
func testLater(t *testing.T, c *cluster) {
	p := c.node(t)
	ns := c.namespace(t)
	pod := c.pod(t, ns, p.o.Node, nil)
	c.budget(t, ns, 1, false)
	began := time.Now()
	err := leave(t, p, 10*c.short, unit(pod))
	later, ok := errors.AsType[*place.Later](err)
	if !ok || later.After != 10*time.Second || !strings.Contains(later.Reason, "still being processed") {
		t.Errorf("got %T %v, want later in 10 s", err, err)
	}
	if took := time.Since(began); took > 9*time.Second {
		t.Errorf("it waited by itself for %s", took)
	}
}

func testRefused(t *testing.T, c *cluster) {
	p := c.node(t)
	ns := c.namespace(t)
	there := c.pod(t, ns, c.name("other"), nil)
	if err := leave(t, p, 10*c.short, unit(there)); err == nil || !strings.Contains(err.Error(), "not on this one") {
		t.Errorf("a pod of another node: %v", err)
	}
	here := c.pod(t, ns, p.o.Node, nil)
	if err := p.Leave(t.Context(), unit(here), false); err == nil || !strings.Contains(err.Error(), "not asked again") {
		t.Errorf("one that nobody has asked is gone on with: %v", err)
	}
	if err := leave(t, p, 10*c.short, place.Unit{Name: "web"}); err == nil || !strings.Contains(err.Error(), "want namespace/name") {
		t.Errorf("a name without a namespace: %v", err)
	}
}

// testBack: without a taint the scheduler may take the same node.
func testBack(t *testing.T, c *cluster) {
	p := c.node(t)
	ns := c.namespace(t)
	c.pod(t, ns, c.name("other"), nil)
	pod := c.pod(t, ns, p.o.Node, nil)
	c.work(t, ns, func() string { return p.o.Node })
	if err := leave(t, p, 10*c.short, unit(pod)); !errors.Is(err, errBack) {
		t.Errorf("got %v", err)
	}
}

func testNotReady(t *testing.T, c *cluster) {
	for name, tt := range map[string]struct {
		works bool
		want  string
	}{
		"nobody ends it":       {false, "it is still here"},
		"nobody makes another": {true, "its controller has made no other"},
	} {
		t.Run(name, func(t *testing.T) {
			p := c.node(t)
			ns := c.namespace(t)
			c.pod(t, ns, c.name("other"), nil)
			pod := c.pod(t, ns, p.o.Node, nil)
			if tt.works {
				c.work(t, ns, func() string { return "" })
			}
			err := leave(t, p, c.short, unit(pod))
			if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, place.ErrHalfway) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	t.Run("no room", func(t *testing.T) {
		p := c.node(t)
		ns, other := c.namespace(t), c.name("other")
		c.pod(t, ns, other, nil)
		pod := c.pod(t, ns, p.o.Node, nil)
		c.work(t, ns, func() string { return "" })
		go func() {
			time.Sleep(c.short / 4)
			_, _ = c.makePod(t.Context(), ns, "", func(p *corev1.Pod) {
				p.Status = corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/2 nodes are available"}}}
			})
		}()
		if err := leave(t, p, c.short, unit(pod)); err == nil || !strings.Contains(err.Error(), "is not ready: Pending, 0/2 nodes are available") {
			t.Errorf("got %v", err)
		}
	})
}

// testResumed: the process that asked has died, and its controller has made another meanwhile.
func testResumed(t *testing.T, c *cluster) {
	p := c.node(t)
	ns, other := c.namespace(t), c.name("other")
	c.pod(t, ns, other, func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(time.Now().Add(-time.Hour)) })
	pod := c.pod(t, ns, p.o.Node, nil)
	if err := leave(t, p, c.short, unit(pod)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("nobody ends it, and it has left: %v", err)
	}
	if err := leave(t, p, 0, unit(pod)); !errors.Is(err, place.ErrHalfway) {
		t.Errorf("asked again when the time is over: %v", err)
	}
	c.pod(t, ns, other, nil)
	zero := int64(0)
	time.AfterFunc(200*time.Millisecond, func() {
		_ = c.CoreV1().Pods(ns).Delete(context.Background(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero})
	})
	if err := leave(t, p, c.short, unit(pod)); err != nil {
		t.Error(err)
	}
}

func testGone(t *testing.T, c *cluster) {
	p := c.node(t)
	ns := c.namespace(t)
	still := c.pod(t, ns, p.o.Node, nil)
	if err := leave(t, p, 0, unit(still)); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, place.ErrHalfway) {
		t.Errorf("one that nobody has asked, when the time is over: %v", err)
	}
	if err := leave(t, p, 10*c.short, place.Unit{ID: "x", Name: ns + "/web-1"}); err != nil {
		t.Errorf("one that is gone: %v", err)
	}
	pod := c.pod(t, ns, p.o.Node, nil)
	u := unit(pod)
	u.ID = "that of its predecessor"
	if err := leave(t, p, 10*c.short, u); err != nil {
		t.Errorf("one whose name another has: %v", err)
	}
	// Between the look and the request another has taken the name.
	old := pod.DeepCopy()
	old.UID = "that-of-its-predecessor"
	if err := p.evict(t.Context(), old); err != nil {
		t.Errorf("got %v", err)
	}
	if now, err := c.CoreV1().Pods(ns).Get(t.Context(), pod.Name, metav1.GetOptions{}); err != nil || now.DeletionTimestamp != nil {
		t.Errorf("its successor was evicted: %v", err)
	}
}

func testCordon(t *testing.T, c *cluster) {
	ours := corev1.Taint{Key: taintKey, Effect: corev1.TaintEffectNoSchedule}
	same := corev1.Taint{Key: taintKey, Effect: corev1.TaintEffectNoExecute}
	gpu := corev1.Taint{Key: "gpu", Value: "a", Effect: corev1.TaintEffectNoSchedule}
	for _, tt := range []struct {
		name              string
		before, on, after []corev1.Taint
	}{
		{"free", nil, []corev1.Taint{ours}, nil},
		{"others", []corev1.Taint{gpu, same}, []corev1.Taint{gpu, same, ours}, []corev1.Taint{gpu, same}},
		{"ours is there", []corev1.Taint{ours, gpu}, []corev1.Taint{ours, gpu}, []corev1.Taint{gpu}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := c.node(t, tt.before...)
			n, err := c.CoreV1().Nodes().Get(t.Context(), p.o.Node, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			n.Spec.Unschedulable = true // by somebody else
			if _, err := c.CoreV1().Nodes().Update(t.Context(), n, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			for _, on := range []bool{true, true, false, false} {
				if err := p.Cordon(t.Context(), on); err != nil {
					t.Fatal(err)
				}
				want := tt.after
				if on {
					want = tt.on
				}
				n, err := c.CoreV1().Nodes().Get(t.Context(), p.o.Node, metav1.GetOptions{})
				// Where a node is unschedulable a real one has a taint of its controller's.
				got := slices.DeleteFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeUnschedulable })
				if err != nil || !slices.Equal(got, want) || !n.Spec.Unschedulable {
					t.Errorf("on %t: taints %+v, unschedulable %t, %v; want %+v", on, got, n.Spec.Unschedulable, err, want)
				}
			}
		})
	}
}

func testPages(t *testing.T, c *cluster) {
	p := c.node(t)
	ns := c.namespace(t)
	for range 5 {
		c.pod(t, ns, p.o.Node, nil)
	}
	c.pod(t, ns, c.name("other"), nil)
	units, err := p.Units(t.Context())
	units = slices.DeleteFunc(units, func(u place.Unit) bool { return strings.HasPrefix(u.Name, namespace+"/") })
	if err != nil || len(units) != 5 {
		t.Fatalf("%d units, %v", len(units), err)
	}
	for _, u := range units {
		if !strings.HasPrefix(u.Name, ns+"/web-") || len(u.Containers) != 1 || len(u.Containers[0]) != 64 || u.ID == "" || u.Owner != ns+"/ReplicaSet/web" {
			t.Errorf("got %+v", u)
		}
	}
}

func testAnotherMachine(t *testing.T, c *cluster) {
	p := c.node(t)
	p.o.BootID = "99999999-2222-3333-4444-555555555555"
	_, err := p.Units(t.Context())
	for _, err := range []error{err, p.Cordon(t.Context(), true), leave(t, p, 10*c.short, place.Unit{ID: "x", Name: "a/b"})} {
		if err == nil || !strings.Contains(err.Error(), "another machine") {
			t.Errorf("got %v", err)
		}
	}
}

// testDescheduler is the last but for those that run beside it: its pod is seen from every node.
func testDescheduler(t *testing.T, _ *cluster) {
	c, _ := fakeCluster(t)
	p := c.node(t)
	ns := c.namespace(t)
	pod := c.pod(t, ns, p.o.Node, nil)
	c.pod(t, ns, c.name("other"), nil)
	c.pod(t, ns, c.name("other"), func(p *corev1.Pod) {
		p.Labels = map[string]string{"app.kubernetes.io/name": "descheduler"}
		p.Status.Phase = corev1.PodSucceeded // of a CronJob
	})
	if got := stays(t, p, pod); !strings.Contains(got, "has a descheduler") {
		t.Errorf("stays %q", got)
	}
	if err := leave(t, p, 10*c.short, unit(pod)); err == nil || !strings.Contains(err.Error(), "has a descheduler") {
		t.Errorf("asked to leave: %v", err)
	}
	if err := p.Cordon(t.Context(), true); err != nil {
		t.Errorf("the taint: %v", err)
	}
	p.o.DespiteDescheduler = true
	if got := stays(t, p, pod); got != "" {
		t.Errorf("stays %q, where that is allowed", got)
	}
}

// TestEvictionAnswers: what the fake's reactors, and with them the API server, can answer.
func TestEvictionAnswers(t *testing.T) {
	pods := corev1.Resource("pods")
	for _, tt := range []struct {
		name  string
		err   error
		later time.Duration // 0: it is another error
		want  string
	}{
		{"429", apierrors.NewTooManyRequests("it would violate the budget", 0), laterAfter, "violate the budget"},
		{"429 with a time", apierrors.NewTooManyRequests("slowly", 7), 7 * time.Second, "slowly"},
		{"budget changes at the same time", apierrors.NewTimeoutError("couldn't update PodDisruptionBudget", 10), 10 * time.Second, "couldn't update"},
		{"409", apierrors.NewConflict(pods, "web", errors.New("it was modified")), laterAfter, "it was modified"},
		{"403", apierrors.NewForbidden(pods, "web", errors.New("no")), 0, "fix: let the account create pods/eviction"},
		{"500", apierrors.NewInternalError(errors.New("more than one PodDisruptionBudget")), 0, "more than one PodDisruptionBudget"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, f := fakeCluster(t)
			asked := 0
			f.PrependReactor("create", "pods", func(a kubetesting.Action) (bool, runtime.Object, error) {
				if a.GetSubresource() != "eviction" {
					return false, nil, nil
				}
				asked++
				return true, nil, tt.err
			})
			p := c.node(t)
			ns := c.namespace(t)
			c.pod(t, ns, c.name("other"), nil)
			pod := c.pod(t, ns, p.o.Node, nil)
			err := leave(t, p, 10*c.short, unit(pod))
			later, ok := errors.AsType[*place.Later](err)
			if ok != (tt.later > 0) || ok && later.After != tt.later || !strings.Contains(fmt.Sprint(err), tt.want) {
				t.Errorf("got %T %v, want later in %s: %s", err, err, tt.later, tt.want)
			}
			if asked != 1 {
				t.Errorf("asked %d times", asked)
			}
		})
	}
	t.Run("404, and an answer that is lost", func(t *testing.T) {
		for _, lost := range []error{apierrors.NewNotFound(pods, "web"), errors.New("connection reset")} {
			c, f := fakeCluster(t)
			p := c.node(t)
			ns, other := c.namespace(t), c.name("other")
			c.pod(t, ns, other, nil)
			pod := c.pod(t, ns, p.o.Node, nil)
			f.PrependReactor("create", "pods", func(a kubetesting.Action) (bool, runtime.Object, error) {
				if a.GetSubresource() != "eviction" {
					return false, nil, nil
				}
				if err := f.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("pods"), ns, pod.Name); err != nil {
					t.Error(err)
				}
				return true, nil, lost
			})
			time.AfterFunc(100*time.Millisecond, func() { _, _ = c.makePod(context.Background(), ns, other, nil) })
			if err := leave(t, p, 10*c.short, unit(pod)); err != nil {
				t.Errorf("%v: %v", lost, err)
			}
		}
	})
}

// TestCordonConflict: somebody changes the node between the look and the change.
func TestCordonConflict(t *testing.T) {
	c, f := fakeCluster(t)
	p := c.node(t)
	gpu := corev1.Taint{Key: "gpu", Effect: corev1.TaintEffectNoSchedule}
	tries := 0
	f.PrependReactor("patch", "nodes", func(a kubetesting.Action) (bool, runtime.Object, error) {
		nodes := corev1.SchemeGroupVersion.WithResource("nodes")
		o, err := f.Tracker().Get(nodes, "", p.o.Node)
		if err != nil {
			return true, nil, err
		}
		n := o.(*corev1.Node).DeepCopy()
		want := fmt.Sprintf(`{"op":"replace","path":"/metadata/resourceVersion","value":%q}`, n.ResourceVersion)
		if patch := string(a.(kubetesting.PatchAction).GetPatch()); !strings.Contains(patch, want) {
			t.Errorf("the patch %s does not hold for the node as it was looked at: want %s", patch, want)
		}
		if tries++; tries > 2 {
			return false, nil, nil
		}
		if n.ResourceVersion = fmt.Sprint(tries + 1); tries > 0 {
			n.Spec.Taints = []corev1.Taint{gpu}
		}
		if err := f.Tracker().Update(nodes, n, ""); err != nil {
			return true, nil, err
		}
		return true, nil, apierrors.NewConflict(nodes.GroupResource(), p.o.Node, errors.New("the object has been modified"))
	})
	if err := p.Cordon(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	n, err := c.CoreV1().Nodes().Get(t.Context(), p.o.Node, metav1.GetOptions{})
	if err != nil || tries != 3 || len(n.Spec.Taints) != 2 || n.Spec.Taints[0] != gpu {
		t.Errorf("after %d tries: %+v, %v", tries, n.Spec.Taints, err)
	}
	tries = -100
	if err := p.Cordon(t.Context(), false); !apierrors.IsConflict(err) {
		t.Errorf("a node that changes all the time: %v", err)
	}
}

// TestRestart: an API server that does not answer for a while while a pod leaves.
func TestRestart(t *testing.T) {
	c, f := fakeCluster(t)
	p := c.node(t)
	ns, other := c.namespace(t), c.name("other")
	c.pod(t, ns, other, nil)
	pod := c.pod(t, ns, p.o.Node, nil)
	evicted, broken := false, 0
	f.PrependReactor("create", "pods", func(a kubetesting.Action) (bool, runtime.Object, error) {
		evicted = evicted || a.GetSubresource() == "eviction"
		return false, nil, nil
	})
	f.PrependReactor("get", "pods", func(kubetesting.Action) (bool, runtime.Object, error) {
		if evicted && broken < 3 {
			broken++
			return true, nil, errors.New("the server is starting")
		}
		return false, nil, nil
	})
	c.work(t, ns, func() string { return other })
	if err := leave(t, p, 10*c.short, unit(pod)); err != nil || broken != 3 {
		t.Errorf("after %d answers that failed: %v", broken, err)
	}
}

func TestOpen(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := Open(Options{}); err == nil || !strings.Contains(err.Error(), "fix: name a kubeconfig") {
		t.Errorf("outside of a cluster: %v", err)
	}
	if _, err := Open(Options{Kubeconfig: t.TempDir() + "/none"}); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a kubeconfig that is not there: %v", err)
	}
}

// TestUnauthorized: what is wrong with the account is said.
func TestUnauthorized(t *testing.T) {
	c, f := fakeCluster(t)
	p := c.node(t)
	f.PrependReactor("list", "pods", func(kubetesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(corev1.Resource("pods"), "", errors.New("it may not list"))
	})
	if _, err := p.Units(t.Context()); !apierrors.IsForbidden(err) {
		t.Errorf("got %v", err)
	}
}
