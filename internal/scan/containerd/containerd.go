// Package containerd finds images and containers in the store of a containerd, which is
// also the image store of newer Docker engines: the digest of an image, whose blobs it
// hands out, and the directories of a container's file system.
//
// It owns its connection until [Store.Close]. It asks containerd for names and reads
// blobs as files, by their digest; it parses none. It changes nothing: no lease, no
// snapshot is made. Row: adapter.
package containerd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/distribution/reference"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/pagecache"
)

// Sockets are where containerd listens: its own service, and the one that dockerd starts.
var Sockets = []string{"/run/containerd/containerd.sock", "/run/docker/containerd/containerd.sock"}

// ErrNotFound says that the store has no image or container of that name.
var ErrNotFound = errors.New("containerd has no such image or container")

// ErrUnreachable says that there is no containerd at a socket, or none for this user.
var ErrUnreachable = errors.New("no containerd that this user may ask")

// Store is a connection to one containerd. Safe for concurrent use.
type Store struct {
	conn       *grpc.ClientConn
	namespaces []string
	content    string // the directory of its blobs
	// snapshotters are those that it has in use.
	snapshotters []string
}

// defaultSnapshotter is that of who names none (containerd, defaults.DefaultSnapshotter on Linux).
const defaultSnapshotter = "overlayfs"

// snapshotterPlugin is the type of snapshotters among containerd's plugins.
const snapshotterPlugin = "io.containerd.snapshotter.v1"

// maxMessage bounds an answer: a node may have thousands of images.
const maxMessage = 64 << 20

// Open connects to the containerd at a socket. namespace chooses one of its namespaces; with
// an empty one all are looked through.
//
// Errors: [ErrUnreachable]; a containerd that does not say where its blobs are.
func Open(ctx context.Context, socket, namespace string) (*Store, error) {
	if err := unix.Access(socket, unix.W_OK); err != nil {
		return nil, fmt.Errorf("%w at %s: %w", ErrUnreachable, socket, err)
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("containerd at %s: %w", socket, err)
	}
	s := &Store{conn: conn}
	if err := s.look(ctx, namespace); err != nil {
		conn.Close()
		if status.Code(errors.Unwrap(err)) == codes.Unavailable {
			err = errors.Join(ErrUnreachable, err)
		}
		return nil, fmt.Errorf("containerd at %s: %w", socket, err)
	}
	return s, nil
}

// Close ends the connection. Blobs that were opened stay open.
func (s *Store) Close() error { return s.conn.Close() }

// look asks for the namespaces and where blobs are.
func (s *Store) look(ctx context.Context, namespace string) error {
	s.namespaces = []string{namespace}
	if namespace == "" {
		list, err := namespacesapi.NewNamespacesClient(s.conn).List(ctx, &namespacesapi.ListNamespacesRequest{})
		if err != nil {
			return fmt.Errorf("list namespaces: %w", err)
		}
		s.namespaces = nil
		for _, n := range list.GetNamespaces() {
			s.namespaces = append(s.namespaces, n.GetName())
		}
	}
	res, err := introspectionapi.NewIntrospectionClient(s.conn).Plugins(ctx, &introspectionapi.PluginsRequest{
		Filters: []string{"type==io.containerd.content.v1,id==content", "type==" + snapshotterPlugin},
	})
	if err != nil {
		return fmt.Errorf("ask where its blobs are: %w", err)
	}
	for _, p := range res.GetPlugins() {
		root := p.GetExports()["root"]
		switch {
		case p.GetType() == snapshotterPlugin && p.GetInitErr() == nil:
			s.snapshotters = append(s.snapshotters, p.GetID())
		case p.GetType() != snapshotterPlugin && filepath.IsAbs(root):
			s.content = root
		}
	}
	if s.content != "" {
		return nil
	}
	return errors.New("it does not say where its blobs are: its content store is none on disk")
}

func in(ctx context.Context, namespace string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "containerd-namespace", namespace)
}

// Image returns the digest of an image's manifest or index.
//
// name is a reference as the Docker client reads it, a digest, or at least 12 digits of one.
// Errors: [ErrNotFound]; a sentence for a name of different images in several namespaces.
func (s *Store) Image(ctx context.Context, name string) (digest string, err error) {
	digest, _, err = s.one(ctx, name)
	return digest, err
}

// one returns the image that a name means, with all of its names.
func (s *Store) one(ctx context.Context, name string) (digest string, names []string, err error) {
	found, err := s.find(ctx, name)
	if err != nil {
		return "", nil, err
	}
	if len(found) > 1 {
		return "", nil, fmt.Errorf("%.120q is %d different images: name one by its digest, or choose a namespace with --namespace", name, len(found))
	}
	for digest, names := range found {
		return digest, names, nil
	}
	return "", nil, ErrNotFound
}

// find returns the digests of the images that a name may mean, each with all of its names.
func (s *Store) find(ctx context.Context, name string) (map[string][]string, error) {
	asked := []string{name}
	if ref, err := reference.ParseDockerRef(name); err == nil {
		asked = append(asked, ref.String())
	}
	digits := idDigits(name)
	names, found := map[string][]string{}, map[string][]string{}
	for _, ns := range s.namespaces {
		list, err := imagesapi.NewImagesClient(s.conn).List(in(ctx, ns), &imagesapi.ListImagesRequest{})
		if err != nil {
			return nil, fmt.Errorf("list images of containerd's namespace %s: %w", ns, err)
		}
		for _, img := range list.GetImages() {
			d := img.GetTarget().GetDigest()
			names[d] = append(names[d], img.GetName())
			if slices.Contains(asked, img.GetName()) || digits != "" && strings.HasPrefix(strings.TrimPrefix(d, "sha256:"), digits) {
				found[d] = nil
			}
		}
	}
	for d := range found {
		slices.Sort(names[d])
		found[d] = slices.Compact(names[d])
	}
	return found, nil
}

var hexDigits = regexp.MustCompile(`^[0-9a-f]{12,64}$`)

// idDigits returns the digits of a name that may be an ID.
func idDigits(name string) string {
	if name = strings.TrimPrefix(name, "sha256:"); hexDigits.MatchString(name) {
		return name
	}
	return ""
}

// Container returns the directories of a container's file system, the lowest first, and its ID.
//
// name is its ID, at least 12 digits of that, or its name by nerdctl. id, if it is not
// empty, is the ID that somebody else found for the name. Errors: [ErrNotFound]; a sentence for
// a snapshotter that does not use directories.
func (s *Store) Container(ctx context.Context, name, id string) (dirs []string, found string, err error) {
	id = cmp.Or(id, name)
	digits := idDigits(id)
	type place struct {
		namespace, snapshotter, key, id string
		guessed                         bool
	}
	var places []place
	for _, ns := range s.namespaces {
		list, err := containersapi.NewContainersClient(s.conn).List(in(ctx, ns), &containersapi.ListContainersRequest{})
		if err != nil {
			return nil, "", fmt.Errorf("list containers of containerd's namespace %s: %w", ns, err)
		}
		known := false
		for _, c := range list.GetContainers() {
			if c.GetID() == id || digits != "" && strings.HasPrefix(c.GetID(), digits) || c.GetLabels()["nerdctl/name"] == name {
				known = true
				places = append(places, place{ns, c.GetSnapshotter(), cmp.Or(c.GetSnapshotKey(), c.GetID()), c.GetID(), false})
			}
		}
		if !known && len(id) == 64 && digits == id {
			// Of Docker's containers that are stopped there is only the snapshot. It has their ID, and
			// the record of one that runs does not name it.
			for _, sn := range s.snapshotters {
				places = append(places, place{ns, sn, id, id, true})
			}
		}
	}
	var at *snapshotsapi.MountsResponse
	var of place
	var failed error // where it may have been: another place may have it
	for _, p := range places {
		m, err := snapshotsapi.NewSnapshotsClient(s.conn).Mounts(in(ctx, p.namespace), &snapshotsapi.MountsRequest{Snapshotter: cmp.Or(p.snapshotter, defaultSnapshotter), Key: p.key})
		if status.Code(err) == codes.NotFound {
			continue
		}
		if err != nil {
			err = fmt.Errorf("ask the snapshotter %.40q for the snapshot %s: %w", cmp.Or(p.snapshotter, defaultSnapshotter), p.key, err)
			if !p.guessed {
				return nil, "", err
			}
			failed = cmp.Or(failed, err)
			continue
		}
		if at != nil {
			return nil, "", fmt.Errorf("%s is several containers: give its whole ID, or choose a namespace with --namespace", name)
		}
		at, of = m, p
	}
	if at == nil {
		return nil, "", cmp.Or(failed, ErrNotFound)
	}
	dirs, err = directories(at)
	if err != nil {
		err = fmt.Errorf("containerd's snapshotter %.40q keeps it as %w: scan its image, or export it ('docker export', 'nerdctl export') and scan the file; while it runs, as root, scan /proc/PID/root of its first process", cmp.Or(of.snapshotter, defaultSnapshotter), err)
	}
	return dirs, of.id, err
}

// directories reads the directories out of a mount that containerd would make.
func directories(m *snapshotsapi.MountsResponse) ([]string, error) {
	if len(m.GetMounts()) != 1 {
		return nil, fmt.Errorf("%d mounts, and not as one of directories", len(m.GetMounts()))
	}
	mnt := m.GetMounts()[0]
	var dirs []string
	switch mnt.GetType() {
	case "bind", "rbind":
		dirs = []string{mnt.GetSource()}
	case "overlay":
		upper := ""
		for _, o := range mnt.GetOptions() {
			key, value, _ := strings.Cut(o, "=")
			switch key {
			case "upperdir":
				upper = value
			case "lowerdir":
				dirs = strings.Split(value, ":")
			}
		}
		slices.Reverse(dirs) // the first is the topmost (kernel, overlayfs.rst)
		if upper != "" {
			dirs = append(dirs, upper)
		}
	}
	if len(dirs) == 0 || len(dirs) > inventory.MaxLayers || slices.ContainsFunc(dirs, func(d string) bool { return !filepath.IsAbs(d) }) {
		return nil, fmt.Errorf("a file system of the type %.40q, and not in directories", mnt.GetType())
	}
	return dirs, nil
}

// Fetch opens a blob of the store. It implements target.Blobs.
//
// Errors: [fs.ErrNotExist] for a blob that is not there, as of another platform than was pulled or of layers that were
// thrown away after they were unpacked.
func (s *Store) Fetch(_ context.Context, a inventory.Ask) (io.ReadCloser, error) {
	digits := strings.TrimPrefix(a.Digest, "sha256:")
	if len(digits) != 64 || idDigits(digits) == "" {
		return nil, fmt.Errorf("the digest %.100q is no sha256", a.Digest)
	}
	f, err := os.OpenFile(filepath.Join(s.content, "blobs", "sha256", digits), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not in containerd's store: it is of a platform that was not pulled (choose with --platform), or was thrown away after it was unpacked (pull it again): %w", a.Digest, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	// Compressed layers are of no use to the containers that run.
	return pagecache.Reader(f, st.Size()), nil
}
