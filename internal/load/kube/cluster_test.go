package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	kubetesting "k8s.io/client-go/testing"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/belay-project/belay/internal/load/place"
)

const boot = "11111111-2222-3333-4444-555555555555"

// cluster is an API server, and what a test does there as the operator, as kubelets and as controllers.
type cluster struct {
	kubernetes.Interface
	serial *atomic.Int64
	// short is a time in which a pod that can leave has left, and that a test can wait for in vain.
	short time.Duration
	// config returns how the placer of a node asks.
	config func(t *testing.T, node string) *rest.Config
}

// fakeCluster is the typed fake behind the API's paths, so that requests and answers are those of the wire. It models
// what the API server does with an eviction: budgets, preconditions, and that a kubelet has to end the pod.
func fakeCluster(t *testing.T) (*cluster, *fake.Clientset) {
	t.Helper()
	f := fake.NewClientset()
	f.PrependReactor("create", "pods", func(a kubetesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "eviction" {
			return false, nil, nil
		}
		e := a.(kubetesting.CreateAction).GetObject().(*policyv1.Eviction)
		return true, nil, modelEviction(f, e)
	})
	srv := httptest.NewServer(front(f))
	t.Cleanup(srv.Close)
	config := &rest.Config{Host: srv.URL, RateLimiter: flowcontrol.NewFakeAlwaysRateLimiter()}
	return &cluster{Interface: f, serial: new(atomic.Int64), short: time.Second, config: func(*testing.T, string) *rest.Config { return config }}, f
}

func modelEviction(f *fake.Clientset, e *policyv1.Eviction) error {
	pods := corev1.SchemeGroupVersion.WithResource("pods")
	o, err := f.Tracker().Get(pods, e.Namespace, e.Name)
	if err != nil {
		return err
	}
	pod := o.(*corev1.Pod).DeepCopy()
	if uid := e.DeleteOptions.Preconditions.UID; *uid != pod.UID {
		return apierrors.NewConflict(pods.GroupResource(), pod.Name, fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s)", *uid, pod.UID))
	}
	// Not through the client: it holds its lock while it asks its reactors.
	list, err := f.Tracker().List(policyv1.SchemeGroupVersion.WithResource("poddisruptionbudgets"), policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"), e.Namespace)
	if err != nil {
		return err
	}
	for _, b := range list.(*policyv1.PodDisruptionBudgetList).Items {
		if s, _ := metav1.LabelSelectorAsSelector(b.Spec.Selector); s.Matches(labels.Set(pod.Labels)) && b.Status.ObservedGeneration < b.Generation {
			err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 10)
			err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: policyv1.DisruptionBudgetCause, Message: fmt.Sprintf("The disruption budget %s is still being processed by the server.", b.Name)}}
			return err
		}
	}
	now, grace := metav1.Now(), int64(30)
	end := metav1.NewTime(now.Add(30 * time.Second))
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &end, &grace
	return f.Tracker().Update(pods, pod, pod.Namespace)
}

// front has the API's paths that the placer asks, and nothing else.
func front(f *fake.Clientset) http.Handler {
	mux := http.NewServeMux()
	list := func(r *http.Request) metav1.ListOptions {
		return metav1.ListOptions{LabelSelector: r.FormValue("labelSelector")}
	}
	mux.HandleFunc("GET /api/v1/nodes/{name}", func(w http.ResponseWriter, r *http.Request) {
		n, err := f.CoreV1().Nodes().Get(r.Context(), r.PathValue("name"), metav1.GetOptions{})
		answerWith(w, n, err)
	})
	mux.HandleFunc("PATCH /api/v1/nodes/{name}", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		n, err := f.CoreV1().Nodes().Patch(r.Context(), r.PathValue("name"), types.PatchType(r.Header.Get("Content-Type")), body, metav1.PatchOptions{})
		answerWith(w, n, err)
	})
	pods := func(w http.ResponseWriter, r *http.Request) {
		l, err := f.CoreV1().Pods(r.PathValue("ns")).List(r.Context(), list(r))
		if err == nil {
			want, _ := fields.ParseSelector(r.FormValue("fieldSelector")) // the fake has no field selectors
			kept := l.Items[:0]
			for _, p := range l.Items {
				if want.Matches(fields.Set{"spec.nodeName": p.Spec.NodeName}) {
					kept = append(kept, p)
				}
			}
			l.Items = kept
			paged(l, r)
		}
		answerWith(w, l, err)
	}
	mux.HandleFunc("GET /api/v1/pods", pods)
	mux.HandleFunc("GET /api/v1/namespaces/{ns}/pods", pods)
	mux.HandleFunc("GET /api/v1/namespaces/{ns}/pods/{name}", func(w http.ResponseWriter, r *http.Request) {
		p, err := f.CoreV1().Pods(r.PathValue("ns")).Get(r.Context(), r.PathValue("name"), metav1.GetOptions{})
		answerWith(w, p, err)
	})
	mux.HandleFunc("POST /api/v1/namespaces/{ns}/pods/{name}/eviction", func(w http.ResponseWriter, r *http.Request) {
		e := &policyv1.Eviction{}
		if err := json.NewDecoder(r.Body).Decode(e); err != nil || e.APIVersion != "policy/v1" || e.Kind != "Eviction" {
			answerWith(w, nil, apierrors.NewBadRequest(fmt.Sprintf("got %s %s: %v", e.APIVersion, e.Kind, err)))
			return
		}
		answerWith(w, &metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess}, f.CoreV1().Pods(r.PathValue("ns")).EvictV1(r.Context(), e))
	})
	mux.HandleFunc("GET /apis/policy/v1/namespaces/{ns}/poddisruptionbudgets", func(w http.ResponseWriter, r *http.Request) {
		l, err := f.PolicyV1().PodDisruptionBudgets(r.PathValue("ns")).List(r.Context(), list(r))
		answerWith(w, l, err)
	})
	mux.HandleFunc("GET /api/v1/namespaces/{ns}/persistentvolumeclaims/{name}", func(w http.ResponseWriter, r *http.Request) {
		c, err := f.CoreV1().PersistentVolumeClaims(r.PathValue("ns")).Get(r.Context(), r.PathValue("name"), metav1.GetOptions{})
		answerWith(w, c, err)
	})
	mux.HandleFunc("GET /api/v1/persistentvolumes/{name}", func(w http.ResponseWriter, r *http.Request) {
		v, err := f.CoreV1().PersistentVolumes().Get(r.Context(), r.PathValue("name"), metav1.GetOptions{})
		answerWith(w, v, err)
	})
	return mux
}

// paged cuts a list to the two items after those that the client has.
func paged(l *corev1.PodList, r *http.Request) {
	const most = 2
	from, _ := strconv.Atoi(r.FormValue("continue"))
	from = min(from, len(l.Items))
	if l.Items = l.Items[from:]; r.FormValue("limit") != "" && len(l.Items) > most {
		l.Items, l.Continue = l.Items[:most], strconv.Itoa(from+most)
	}
}

func answerWith(w http.ResponseWriter, o any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if s, ok := err.(apierrors.APIStatus); ok {
		st := s.Status()
		st.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
		if st.Details != nil && st.Details.RetryAfterSeconds > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(st.Details.RetryAfterSeconds)))
		}
		w.WriteHeader(int(st.Code))
		o = st
	} else if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		o = metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: err.Error()}
	}
	_ = json.NewEncoder(w).Encode(o)
}

// name returns one that no other test of the cluster has.
func (c *cluster) name(kind string) string { return fmt.Sprintf("%s-%d", kind, c.serial.Add(1)) }

// node makes a node, and returns the placer of it.
func (c *cluster) node(t *testing.T, taints ...corev1.Taint) *Placer {
	t.Helper()
	name := c.name("node")
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: c.version(), Labels: map[string]string{corev1.LabelHostname: name + ".example.org"}},
		Spec:       corev1.NodeSpec{Taints: taints},
		Status:     corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{BootID: boot}},
	}
	made, err := c.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// The admission of a real one taints what has not told yet.
	made.Status, made.Spec.Taints = n.Status, taints
	if made, err = c.CoreV1().Nodes().UpdateStatus(t.Context(), made, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	made.Spec.Taints = taints
	if _, err := c.CoreV1().Nodes().Update(t.Context(), made, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	p, err := open(Options{Node: name, BootID: boot, look: 20 * time.Millisecond}, c.config(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// version is what an object of the fake needs and a real API server gives.
func (c *cluster) version() string {
	if _, ok := c.Interface.(*fake.Clientset); ok {
		return "1"
	}
	return ""
}

func (c *cluster) namespace(t *testing.T) string {
	t.Helper()
	name := c.name("shop")
	if _, err := c.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return name
}

func (c *cluster) pod(t *testing.T, namespace, node string, change func(*corev1.Pod)) *corev1.Pod {
	t.Helper()
	p, err := c.makePod(t.Context(), namespace, node, change)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// makePod makes one of ReplicaSet web that is ready, on a node, with changes.
func (c *cluster) makePod(ctx context.Context, namespace, node string, change func(*corev1.Pod)) (*corev1.Pod, error) {
	yes := true
	name := c.name("web")
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, Labels: map[string]string{"app": "web"}, CreationTimestamp: metav1.Now(),
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: types.UID("rs-" + namespace), Controller: &yes}},
		},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "web", Image: "web"}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "web", ContainerID: "containerd://" + strings.Repeat("c", 60) + fmt.Sprintf("%04d", c.serial.Load()), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}},
		},
	}
	if c.version() != "" {
		p.UID = types.UID("uid-" + name)
	}
	if change != nil {
		change(p)
	}
	status := p.Status
	made, err := c.CoreV1().Pods(namespace).Create(ctx, p, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	made.Status = status
	return c.CoreV1().Pods(namespace).UpdateStatus(ctx, made, metav1.UpdateOptions{})
}

func (c *cluster) budget(t *testing.T, namespace string, allowed int32, observed bool) {
	t.Helper()
	b := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: c.name("budget"), Generation: 1},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
	}
	made, err := c.PolicyV1().PodDisruptionBudgets(namespace).Create(t.Context(), b, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	made.Status = policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: allowed, CurrentHealthy: 2, DesiredHealthy: 1, ExpectedPods: 2}
	if observed {
		made.Status.ObservedGeneration = made.Generation
	}
	if _, err := c.PolicyV1().PodDisruptionBudgets(namespace).UpdateStatus(t.Context(), made, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// work is the kubelets and the controllers of one namespace: what is being deleted ends, and is made again, ready, on
// the node that next names. It ends with the test.
func (c *cluster) work(t *testing.T, namespace string, next func() string) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			l, err := c.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
			for i := range l.Items {
				if p := &l.Items[i]; err == nil && p.DeletionTimestamp != nil {
					now := int64(0)
					if derr := c.CoreV1().Pods(namespace).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); derr != nil && ctx.Err() == nil {
						t.Errorf("the kubelet: %v", derr)
					}
					if on := next(); on != "" {
						if _, perr := c.makePod(ctx, namespace, on, nil); perr != nil && ctx.Err() == nil {
							t.Errorf("the controller: %v", perr)
						}
					}
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
}

// leave asks a pod to leave within a time.
func leave(t *testing.T, p *Placer, within time.Duration, u place.Unit) error {
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	return p.Leave(ctx, u, true)
}

func unit(p *corev1.Pod) place.Unit {
	return place.Unit{ID: string(p.UID), Name: p.Namespace + "/" + p.Name}
}
