package workload

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	cerrdefs "github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

// containerdClient is containerdAPI over the real client.
type containerdClient struct{ cli *containerd.Client }

func dialContainerd(ctx context.Context, address string, limit time.Duration) (containerdAPI, string, func(), error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// The client's own dialer polls for a missing socket until its time limit; ask
	// first, so that a host without containerd costs one system call per attempt.
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", address)
	if err != nil {
		return nil, "", nil, fmt.Errorf("connect to containerd: %w", err)
	}
	if err := conn.Close(); err != nil {
		return nil, "", nil, fmt.Errorf("connect to containerd: %w", err)
	}
	cli, err := containerd.New(address, containerd.WithTimeout(limit))
	if err != nil {
		return nil, "", nil, fmt.Errorf("containerd client: %w", err)
	}
	closeFn := func() { _ = cli.Close() } // nothing to do about a connection that does not close
	v, err := cli.Version(ctx)
	if err != nil {
		closeFn()
		return nil, "", nil, fmt.Errorf("containerd version: %w", err)
	}
	return &containerdClient{cli: cli}, v.Version, closeFn, nil
}

// Namespaces implements containerdAPI.
func (c *containerdClient) Namespaces(ctx context.Context) ([]string, error) {
	return c.cli.NamespaceService().List(ctx)
}

// Events implements containerdAPI.
func (c *containerdClient) Events(ctx context.Context, filters ...string) (<-chan *events.Envelope, <-chan error) {
	return c.cli.EventService().Subscribe(ctx, filters...)
}

// Records implements containerdAPI.
func (c *containerdClient) Records(ctx context.Context, namespace, id string) (records, error) {
	ctx = namespaces.WithNamespace(ctx, namespace)
	if id != "" {
		return c.one(ctx, id)
	}
	recs := records{tasks: make(map[string]*task.Process), images: make(map[string]images.Image)}
	var err error
	if recs.containers, err = c.cli.ContainerService().List(ctx); err != nil {
		return recs, fmt.Errorf("containers: %w", err)
	}
	tasks, err := c.cli.TaskService().List(ctx, &tasksapi.ListTasksRequest{})
	if err != nil {
		return recs, fmt.Errorf("tasks: %w", errgrpc.ToNative(err))
	}
	for _, t := range tasks.Tasks {
		recs.tasks[taskOwner(t)] = t
	}
	imgs, err := c.cli.ImageService().List(ctx)
	if err != nil {
		return recs, fmt.Errorf("images: %w", err)
	}
	for _, img := range imgs {
		recs.images[img.Name] = img
	}
	return recs, nil
}

func (c *containerdClient) one(ctx context.Context, id string) (records, error) {
	recs := records{tasks: make(map[string]*task.Process), images: make(map[string]images.Image)}
	rec, err := c.cli.ContainerService().Get(ctx, id)
	if cerrdefs.IsNotFound(err) {
		return recs, errGone
	}
	if err != nil {
		return recs, fmt.Errorf("container: %w", err)
	}
	recs.containers = append(recs.containers, rec)
	t, err := c.cli.TaskService().Get(ctx, &tasksapi.GetRequest{ContainerID: id})
	if err == nil && t.Process != nil {
		recs.tasks[id] = t.Process
	} else if err != nil && !cerrdefs.IsNotFound(errgrpc.ToNative(err)) {
		return recs, fmt.Errorf("task: %w", errgrpc.ToNative(err))
	}
	if rec.Image != "" {
		img, err := c.cli.ImageService().Get(ctx, rec.Image)
		if err == nil {
			recs.images[rec.Image] = img
		} else if !cerrdefs.IsNotFound(err) {
			return recs, fmt.Errorf("image: %w", err)
		}
	}
	if uid := rec.Labels[labelPodUID]; uid != "" && rec.Labels[labelCRIKind] != kindSandbox && plainUID(uid) {
		boxes, err := c.cli.ContainerService().List(ctx, fmt.Sprintf("labels.%q==%s,labels.%q==%s", labelCRIKind, kindSandbox, labelPodUID, uid))
		if err != nil {
			return recs, fmt.Errorf("pod sandbox: %w", err)
		}
		recs.containers = append(recs.containers, boxes...)
	}
	return recs, nil
}

// taskOwner returns the container a task belongs to. Listings fill ID only.
func taskOwner(t *task.Process) string {
	if t.ContainerID != "" {
		return t.ContainerID
	}
	return t.ID
}

// plainUID reports whether uid can stand in a filter without being read as more
// than a value.
func plainUID(uid string) bool {
	return len(uid) <= 64 && strings.Trim(uid, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-") == ""
}
