// Package kube has pods leave this node of a Kubernetes cluster: it taints the node, and asks the
// Eviction API. Where a pod goes is the scheduler's to know, and whether it may go that of budgets.
//
// It deletes nothing, and changes nothing but its own taint. It owns no state: what it goes by it asks
// for each time, and what it cannot learn is a reason for a pod to stay.
//
// Row: adapter.
package kube

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"

	"github.com/belay-project/belay/internal/load/place"
)

// Options say which node of which cluster it is.
type Options struct {
	// Kubeconfig is a file; empty is the service account of the pod that this process runs in.
	Kubeconfig string
	Node       string // the name of this node in its cluster
	BootID     string // of this host: a node that has another is not this one, and left alone
	// SoleReplicas lets pods leave that have no ready sibling and no budget: nobody serves meanwhile.
	SoleReplicas bool
	// DespiteDescheduler lets pods leave though the cluster has a descheduler.
	DespiteDescheduler bool
	look               time.Duration // between two looks at a pod that leaves; 0: 2 seconds
}

// Placer is Kubernetes, seen from one node.
type Placer struct {
	o   Options
	api *client
}

var _ place.Placer = (*Placer)(nil)

// Open reads how the API server is reached. It asks it nothing.
func Open(o Options) (*Placer, error) {
	c, err := configure(o.Kubeconfig)
	if err != nil {
		return nil, err
	}
	return open(o, c)
}

func open(o Options, c *rest.Config) (*Placer, error) {
	o.look = cmp.Or(o.look, 2*time.Second)
	api, err := connect(c)
	if err != nil {
		return nil, err
	}
	return &Placer{o: o, api: api}, nil
}

// Units implements [place.Placer]: the pods of this node.
func (p *Placer) Units(ctx context.Context) ([]place.Unit, error) {
	node, err := p.node(ctx)
	if err != nil {
		return nil, err
	}
	other, err := p.descheduler(ctx)
	if err != nil {
		return nil, err
	}
	pods, err := p.api.pods(ctx, "", metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", p.o.Node).String()})
	if err != nil {
		return nil, fmt.Errorf("pods of node %s: %w", p.o.Node, err)
	}
	j := newJudge(p, node)
	units := make([]place.Unit, 0, len(pods))
	for i := range pods {
		pod := &pods[i]
		u := place.Unit{ID: string(pod.UID), Name: pod.Namespace + "/" + pod.Name, Containers: containers(pod)}
		if c := metav1.GetControllerOf(pod); c != nil {
			u.Owner = pod.Namespace + "/" + c.Kind + "/" + c.Name
		}
		if u.Stays = other; other == "" {
			u.Stays = j.stays(ctx, pod)
		}
		units = append(units, u)
	}
	return units, ctx.Err()
}

// node returns this node, and no other that has its name.
func (p *Placer) node(ctx context.Context) (*corev1.Node, error) {
	n, err := p.api.node(ctx, p.o.Node)
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", p.o.Node, err)
	}
	if id := n.Status.NodeInfo.BootID; !strings.EqualFold(id, p.o.BootID) {
		return nil, fmt.Errorf("node %s is another machine than this one, or has not told of its reboot yet: boot ID %q there, %q here", p.o.Node, id, p.o.BootID)
	}
	return n, nil
}

// deschedulers are the labels that the project's chart, its manifests and OpenShift's operator give its pods. Those of
// jobs that have ended count: it comes back.
var deschedulers = []string{"app.kubernetes.io/name=descheduler", "app=descheduler", "k8s-app=descheduler"}

// descheduler says why pods stay if the cluster has one: two that evict by different rules send pods around.
func (p *Placer) descheduler(ctx context.Context) (string, error) {
	if p.o.DespiteDescheduler {
		return "", nil
	}
	for _, label := range deschedulers {
		pods, err := p.api.pods(ctx, "", metav1.ListOptions{LabelSelector: label})
		if err != nil {
			return "", fmt.Errorf("look for a descheduler: %w", err)
		}
		if len(pods) > 0 {
			return fmt.Sprintf("this cluster has a descheduler (%s/%s), which evicts by rules of its own: only the taint is set", pods[0].Namespace, pods[0].Name), nil
		}
	}
	return "", nil
}

// containers are the IDs of a pod's containers on this node, without the runtime's name.
func containers(pod *corev1.Pod) []string {
	ids := []string{}
	s := &pod.Status
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			if _, id, ok := strings.Cut(list[i].ContainerID, "://"); ok && list[i].State.Running != nil {
				ids = append(ids, id)
			}
		}
	}
	return ids
}
