package kube

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/flowcontrol"
)

const (
	askTimeout = 15 * time.Second // of one request
	// perSecond and burst are what one node asks of the API server at most: it may be that all nodes are full.
	perSecond, burst = 5, 20
	page             = 500 // pods in one answer
)

// client asks the API server by the types of two groups. The typed clientset would link all groups, and
// wait out a Retry-After by itself, ten times (docs/adr/0026-client-go.md).
type client struct {
	core, policy *rest.RESTClient
	params       runtime.ParameterCodec
}

// configure returns how the API server is reached: as a kubeconfig says, or by the service account of the
// pod that this process runs in.
func configure(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		c, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("kubeconfig %s: %w", kubeconfig, err)
		}
		return c, nil
	}
	c, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("no service account is here (%w); fix: name a kubeconfig file, --kubeconfig", err)
	}
	return c, nil
}

func connect(c *rest.Config) (*client, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, policyv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	c = rest.CopyConfig(c)
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c.UserAgent = "belay"
	c.Timeout = askTimeout
	if c.RateLimiter == nil {
		c.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(perSecond, burst)
	}
	c.WarningHandler = rest.NoWarnings{}
	pool, err := rest.HTTPClientFor(c)
	if err != nil {
		return nil, err
	}
	group := func(path string, gv schema.GroupVersion) *rest.RESTClient {
		g := rest.CopyConfig(c)
		g.APIPath, g.GroupVersion = path, &gv
		r, rerr := rest.RESTClientForConfigAndClient(g, pool)
		if err == nil {
			err = rerr
		}
		return r
	}
	k := &client{core: group("/api", corev1.SchemeGroupVersion), policy: group("/apis", policyv1.SchemeGroupVersion), params: runtime.NewParameterCodec(scheme)}
	return k, err
}

func (k *client) node(ctx context.Context, name string) (*corev1.Node, error) {
	n := &corev1.Node{}
	return n, k.core.Get().Resource("nodes").Name(name).Do(ctx).Into(n)
}

// patchNode fails with a conflict if the node is no longer as it was.
func (k *client) patchNode(ctx context.Context, name string, jsonPatch []byte) error {
	return k.core.Patch(types.JSONPatchType).Resource("nodes").Name(name).Body(jsonPatch).Do(ctx).Error()
}

func (k *client) pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	p := &corev1.Pod{}
	return p, k.core.Get().Namespace(namespace).Resource("pods").Name(name).Do(ctx).Into(p)
}

// pods returns those of a namespace, or of all if that is empty.
func (k *client) pods(ctx context.Context, namespace string, o metav1.ListOptions) ([]corev1.Pod, error) {
	var all []corev1.Pod
	o.Limit = page
	for {
		l := &corev1.PodList{}
		err := k.core.Get().NamespaceIfScoped(namespace, namespace != "").Resource("pods").VersionedParams(&o, k.params).Do(ctx).Into(l)
		if err != nil {
			return nil, err
		}
		all = append(all, l.Items...)
		if o.Continue = l.Continue; o.Continue == "" {
			return all, nil
		}
	}
}

func (k *client) budgets(ctx context.Context, namespace string) ([]policyv1.PodDisruptionBudget, error) {
	l := &policyv1.PodDisruptionBudgetList{}
	err := k.policy.Get().Namespace(namespace).Resource("poddisruptionbudgets").Do(ctx).Into(l)
	return l.Items, err
}

func (k *client) claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	c := &corev1.PersistentVolumeClaim{}
	return c, k.core.Get().Namespace(namespace).Resource("persistentvolumeclaims").Name(name).Do(ctx).Into(c)
}

func (k *client) volume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	v := &corev1.PersistentVolume{}
	return v, k.core.Get().Resource("persistentvolumes").Name(name).Do(ctx).Into(v)
}

// evict asks once: what a refusal says of later is the caller's to know.
func (k *client) evict(ctx context.Context, p *corev1.Pod) error {
	return k.core.Post().Namespace(p.Namespace).Resource("pods").Name(p.Name).SubResource("eviction").MaxRetries(0).Body(&policyv1.Eviction{
		TypeMeta:      metav1.TypeMeta{APIVersion: "policy/v1", Kind: "Eviction"},
		ObjectMeta:    metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}},
	}).Do(ctx).Error()
}
