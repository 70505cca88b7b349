package kube

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/belay-project/belay/internal/testneed"
)

// envAPIServer names the environment variable with the directory of kube-apiserver and etcd.
const envAPIServer = "BELAY_TEST_KUBE_APISERVER"

// manifest is what the chart gives an account that has pods leave.
const (
	manifest  = "../../../deploy/kubernetes/belay-orchestrator.yaml"
	namespace = "belay-system"
	account   = "belay"
)

// TestRealAPIServer: the contract holds of a kube-apiserver, for the account that the chart makes and no more than it may.
// There is no kubelet, scheduler or controller: the test is all of them.
func TestRealAPIServer(t *testing.T) {
	dir := os.Getenv(envAPIServer)
	testneed.Need(t, "kube-apiserver", dir != "", "name the directory of kube-apiserver and etcd in "+envAPIServer)
	c, server := realCluster(t, dir)
	contract(t, c)
	t.Run("rights", func(t *testing.T) { testRights(t, c, server) })
}

// testRights holds the account to what it needs.
func testRights(t *testing.T, c *cluster, server string) {
	p, other := c.node(t), c.node(t)
	as := kubernetes.NewForConfigOrDie(c.config(t, p.o.Node))
	patch := func(node, text string) error {
		_, err := as.CoreV1().Nodes().Patch(t.Context(), node, types.MergePatchType, []byte(text), metav1.PatchOptions{})
		return err
	}
	if err := patch(p.o.Node, `{"spec": {"taints": [{"key": "belay.dev/over-cap", "effect": "NoSchedule"}]}}`); err != nil {
		t.Fatalf("its own taint: %v", err)
	}
	for name, err := range map[string]error{
		"another node":           patch(other.o.Node, `{"spec": {"taints": [{"key": "belay.dev/over-cap", "effect": "NoSchedule"}]}}`),
		"another taint":          patch(p.o.Node, `{"spec": {"taints": [{"key": "x", "effect": "NoSchedule"}]}}`),
		"a taint that evicts":    patch(p.o.Node, `{"spec": {"taints": [{"key": "belay.dev/over-cap", "effect": "NoExecute"}]}}`),
		"unschedulable":          patch(p.o.Node, `{"spec": {"unschedulable": true}}`),
		"a label":                patch(p.o.Node, `{"metadata": {"labels": {"a": "b"}}}`),
		"an owner":               patch(p.o.Node, `{"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "x", "uid": "x"}]}}`),
		"the deletion of a pod":  as.CoreV1().Pods("x").Delete(t.Context(), "x", metav1.DeleteOptions{}),
		"the deletion of a node": as.CoreV1().Nodes().Delete(t.Context(), p.o.Node, metav1.DeleteOptions{}),
		"secrets": func() error {
			_, err := as.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{})
			return err
		}(),
	} {
		if !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
			t.Errorf("%s: %v, want it forbidden", name, err)
		}
	}
	// A token that is of no pod says of no node that it is its own.
	unbound := token(t, c, nil)
	as = kubernetes.NewForConfigOrDie(&rest.Config{Host: server, BearerToken: unbound, TLSClientConfig: rest.TLSClientConfig{Insecure: true}})
	if err := patch(p.o.Node, `{"spec": {"taints": null}}`); !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) {
		t.Errorf("a token of no pod: %v", err)
	}
}

// realCluster starts a kube-apiserver, and applies the manifest there.
func realCluster(t *testing.T, dir string) (c *cluster, server string) {
	t.Helper()
	work := t.TempDir()
	etcd := "http://" + freePort(t)
	start(t, filepath.Join(dir, "etcd"), "--data-dir", filepath.Join(work, "etcd"), "--unsafe-no-fsync", "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
		"--listen-peer-urls", "http://"+freePort(t), "--log-level", "error")
	key := filepath.Join(work, "sa.key")
	writeKey(t, key)
	tokens := filepath.Join(work, "tokens.csv")
	if err := os.WriteFile(tokens, []byte("operator,operator,operator,system:masters\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := freePort(t)
	_, port, _ := net.SplitHostPort(address)
	// No service accounts are made for namespaces: their controller is not here.
	start(t, filepath.Join(dir, "kube-apiserver"), "--etcd-servers", etcd, "--bind-address", "127.0.0.1", "--secure-port", port, "--cert-dir", filepath.Join(work, "certs"),
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", key, "--service-account-signing-key-file", key,
		"--service-cluster-ip-range", "10.0.0.0/24", "--authorization-mode", "RBAC", "--token-auth-file", tokens, "--disable-admission-plugins", "ServiceAccount")
	server = "https://" + address
	base := func(token string) *rest.Config {
		return &rest.Config{Host: server, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{Insecure: true}, RateLimiter: flowcontrol.NewFakeAlwaysRateLimiter()}
	}
	operator := base("operator")
	awaitReady(t, operator)
	c = &cluster{Interface: kubernetes.NewForConfigOrDie(operator), serial: new(atomic.Int64), short: 5 * time.Second}
	apply(t, c, operator)
	c.config = func(t *testing.T, node string) *rest.Config {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "belay-" + node},
			Spec:       corev1.PodSpec{NodeName: node, ServiceAccountName: account, Containers: []corev1.Container{{Name: "belay", Image: "belay"}}},
		}
		made, err := c.CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			made, err = c.CoreV1().Pods(namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
		return base(token(t, c, made))
	}
	return c, server
}

// token is one of the account, as the kubelet gets it for a pod.
func token(t *testing.T, c *cluster, pod *corev1.Pod) string {
	t.Helper()
	q := &authenticationv1.TokenRequest{}
	if pod != nil {
		q.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	}
	q, err := c.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account, q, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return q.Status.Token
}

// apply makes the namespace, the account and each object of the manifest.
func apply(t *testing.T, c *cluster, operator *rest.Config) {
	t.Helper()
	if _, err := c.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CoreV1().ServiceAccounts(namespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(manifest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	plural := map[string]string{"ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings", "ValidatingAdmissionPolicy": "validatingadmissionpolicies", "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings"}
	r := utilyaml.NewYAMLReader(bufio.NewReader(f))
	for {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		o, kind, err := scheme.Codecs.UniversalDeserializer().Decode(doc, nil, nil)
		if runtime.IsMissingKind(err) {
			continue // the comment at the top
		}
		if err != nil {
			t.Fatal(err)
		}
		g := rest.CopyConfig(operator)
		g.APIPath, g.GroupVersion, g.NegotiatedSerializer = "/apis", &schema.GroupVersion{Group: kind.Group, Version: kind.Version}, scheme.Codecs.WithoutConversion()
		rc, err := rest.RESTClientFor(g)
		if err != nil {
			t.Fatal(err)
		}
		if err := rc.Post().Resource(plural[kind.Kind]).Body(o).Do(t.Context()).Error(); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
	}
}

// awaitReady waits until the API server is, and the admission policies of the manifest will be looked at.
func awaitReady(t *testing.T, operator *rest.Config) {
	t.Helper()
	hc, err := rest.HTTPClientFor(operator)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		r, err := hc.Get(operator.Host + "/readyz")
		if err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(end) {
			t.Fatalf("the API server is not ready: %v", err)
		}
	}
}

func start(t *testing.T, path string, args ...string) {
	t.Helper()
	out := &strings.Builder{}
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			text := out.String()
			t.Logf("%s said at last:\n%s", filepath.Base(path), text[max(0, len(text)-2000):])
		}
	})
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func writeKey(t *testing.T, path string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
