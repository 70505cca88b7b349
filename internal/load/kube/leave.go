package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belay-project/belay/internal/load/place"
)

// laterAfter is how long a pod is left alone where the API server does not say.
const laterAfter = 30 * time.Second

// Leave implements [place.Placer]: it evicts a pod, and waits until it is gone and its controller has one more that is
// ready on another node. One that is gone already has left.
//
// An eviction cannot be taken back: an error after it is [place.ErrHalfway], and says what is missing.
func (p *Placer) Leave(ctx context.Context, u place.Unit, ask bool) error {
	namespace, name, ok := strings.Cut(u.Name, "/")
	if !ok {
		return fmt.Errorf("pod %q: want namespace/name", u.Name)
	}
	if err := ctx.Err(); err != nil {
		return p.asked(ctx, namespace, name, types.UID(u.ID), err)
	}
	node, err := p.node(ctx)
	if err != nil {
		return err
	}
	pod, err := p.still(ctx, namespace, name, types.UID(u.ID))
	switch {
	case errors.Is(err, errGone):
		return nil
	case err != nil:
		return err
	case pod.Spec.NodeName != p.o.Node:
		return fmt.Errorf("pod %s is on node %s, and not on this one", u.Name, pod.Spec.NodeName)
	case pod.DeletionTimestamp == nil && !ask:
		return fmt.Errorf("pod %s is not being asked any more, and is not asked again", u.Name)
	}
	j := newJudge(p, node)
	if err := p.ask(ctx, j, pod); err != nil {
		return err
	}
	siblings, err := j.siblingsOf(ctx, pod)
	if err != nil {
		return fmt.Errorf("%w: pod %s is leaving, and what its controller has is not known: %w", place.ErrHalfway, u.Name, err)
	}
	return p.await(ctx, pod, older(siblings, pod))
}

// asked says, once there is no more time for err, whether the pod has left or is leaving.
func (p *Placer) asked(ctx context.Context, namespace, name string, uid types.UID, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	pod, lerr := p.still(ctx, namespace, name, uid)
	switch {
	case errors.Is(lerr, errGone):
		return nil
	case lerr != nil:
		return fmt.Errorf("%w: whether pod %s/%s is leaving is not known: %w; %w", place.ErrHalfway, namespace, name, lerr, err)
	case pod.DeletionTimestamp != nil:
		return fmt.Errorf("%w: pod %s/%s is still leaving: %w", place.ErrHalfway, namespace, name, err)
	}
	return err
}

// ask has the pod evicted, if it is not leaving already.
func (p *Placer) ask(ctx context.Context, j *judge, pod *corev1.Pod) error {
	if pod.DeletionTimestamp != nil {
		return nil
	}
	other, err := p.descheduler(ctx)
	if err != nil {
		return err
	}
	why := j.tied(ctx, pod)
	if other != "" {
		why = append(why, other)
	}
	if len(why) > 0 {
		return fmt.Errorf("pod %s/%s stays: %s", pod.Namespace, pod.Name, strings.Join(why, "; "))
	}
	// Those that are there before: whoever comes later replaces it.
	if _, err := j.siblingsOf(ctx, pod); err != nil {
		return fmt.Errorf("pod %s/%s stays: what its controller has is not known: %w", pod.Namespace, pod.Name, err)
	}
	if why, passes := j.disrupts(ctx, pod); passes {
		return &place.Later{After: laterAfter, Reason: why}
	} else if why != "" {
		return fmt.Errorf("pod %s/%s stays: %s", pod.Namespace, pod.Name, why)
	}
	return p.evict(ctx, pod)
}

func (p *Placer) evict(ctx context.Context, pod *corev1.Pod) error {
	err := p.api.evict(ctx, pod)
	if err == nil {
		return nil
	}
	// A budget's no is 429, its change at the same time a time-out, both with a Retry-After.
	if apierrors.IsTooManyRequests(err) || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) {
		seconds, _ := apierrors.SuggestsClientDelay(err)
		return &place.Later{After: cmp.Or(time.Duration(seconds)*time.Second, laterAfter), Reason: reason(err)}
	}
	switch {
	case apierrors.IsConflict(err):
		err = &place.Later{After: laterAfter, Reason: reason(err)}
	case apierrors.IsForbidden(err):
		err = fmt.Errorf("evict pod %s/%s: %w; fix: let the account create pods/eviction (docs/kubernetes.md)", pod.Namespace, pod.Name, err)
	default:
		err = fmt.Errorf("evict pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	// Whatever it was, an answer that was lost among it: the pod tells. One that is leaving is waited for.
	err = p.asked(ctx, pod.Namespace, pod.Name, pod.UID, err)
	if errors.Is(err, place.ErrHalfway) && ctx.Err() == nil {
		return nil
	}
	return err
}

// reason is what the API server said, with the causes: those of a budget name it.
func reason(err error) string {
	var s apierrors.APIStatus
	text := err.Error()
	if errors.As(err, &s) && s.Status().Details != nil {
		for _, c := range s.Status().Details.Causes {
			if c.Message != "" && !strings.Contains(text, c.Message) {
				text += " " + c.Message
			}
		}
	}
	return text
}

var errGone = errors.New("the pod is gone")

// still returns the pod if it is there. It is gone, too, if another has its name.
func (p *Placer) still(ctx context.Context, namespace, name string, uid types.UID) (*corev1.Pod, error) {
	pod, err := p.api.pod(ctx, namespace, name)
	switch {
	case apierrors.IsNotFound(err), err == nil && pod.UID != uid:
		return nil, errGone
	case err != nil:
		return nil, fmt.Errorf("pod %s/%s: %w", namespace, name, err)
	}
	return pod, nil
}

// older returns which of its siblings cannot be the pod's replacement: they were there when it was asked to leave.
func older(siblings []corev1.Pod, pod *corev1.Pod) map[types.UID]bool {
	out := map[types.UID]bool{pod.UID: true}
	for i := range siblings {
		s := &siblings[i]
		if pod.DeletionTimestamp == nil || s.CreationTimestamp.Time.Before(askedAt(pod)) {
			out[s.UID] = true
		}
	}
	return out
}

// askedAt is when a pod that is leaving was asked to: its deletion's time has the grace in it.
func askedAt(pod *corev1.Pod) time.Time {
	grace := time.Duration(0)
	if s := pod.DeletionGracePeriodSeconds; s != nil {
		grace = time.Duration(*s) * time.Second
	}
	return pod.DeletionTimestamp.Add(-grace)
}

var errBack = errors.New("its replacement is on this node again; fix: taint the node first")

// await looks until the pod is gone and one that is not among old is ready elsewhere.
func (p *Placer) await(ctx context.Context, pod *corev1.Pod, old map[types.UID]bool) error {
	t := time.NewTicker(p.o.look)
	defer t.Stop()
	last := "nothing is known of it since"
	for {
		missing, err := p.missing(ctx, pod, old)
		switch {
		case err == nil && missing == "":
			return nil
		case errors.Is(err, errBack):
			return fmt.Errorf("pod %s/%s has left: %w", pod.Namespace, pod.Name, err)
		case err == nil:
			last = missing
		case ctx.Err() == nil:
			last = err.Error() // an API server that is restarted answers again
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: pod %s/%s was asked to leave, and %s: %w", place.ErrHalfway, pod.Namespace, pod.Name, last, ctx.Err())
		case <-t.C:
		}
	}
}

// missing says what has not happened yet.
func (p *Placer) missing(ctx context.Context, pod *corev1.Pod, old map[types.UID]bool) (string, error) {
	switch _, err := p.still(ctx, pod.Namespace, pod.Name, pod.UID); {
	case err == nil:
		return "it is still here", nil
	case !errors.Is(err, errGone):
		return "", err
	}
	siblings, err := newJudge(p, nil).siblingsOf(ctx, pod)
	if err != nil {
		return "", err
	}
	siblings = slices.DeleteFunc(siblings, func(s corev1.Pod) bool { return old[s.UID] || s.DeletionTimestamp != nil })
	missing := "its controller has made no other"
	for i := range siblings {
		s := &siblings[i]
		switch {
		case s.Spec.NodeName == p.o.Node:
			return "", errBack
		case s.Spec.NodeName != "" && ready(s):
			return "", nil
		}
		missing = fmt.Sprintf("its replacement %s is not ready: %s%s", s.Name, s.Status.Phase, unscheduled(s))
	}
	return missing, nil
}

// unscheduled is what the scheduler says of a pod for which it has no node.
func unscheduled(pod *corev1.Pod) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return ", " + c.Message
		}
	}
	return ""
}
