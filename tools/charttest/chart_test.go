package charttest

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	"helm.sh/helm/v3/pkg/strvals"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/validation"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

const (
	chartDir = "../../deploy/helm/belay"
	manifest = "../../deploy/kubernetes/belay.yaml"
	// rights is what orchestrator.enabled adds to the cluster, for kubectl apply.
	rights = "../../deploy/kubernetes/belay-orchestrator.yaml"
	digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

var update = flag.Bool("update", false, "rewrite "+manifest+" and "+rights)

// render is helm template: the values are checked against the schema, and go through the templates.
func render(t *testing.T, values string) (map[string]string, error) {
	t.Helper()
	return renderChart(t, load(t), values)
}

func load(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.Load(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func renderChart(t *testing.T, c *chart.Chart, values string) (map[string]string, error) {
	t.Helper()
	return renderOn(t, c, values, chartutil.DefaultCapabilities)
}

func renderOn(t *testing.T, c *chart.Chart, values string, capabilities *chartutil.Capabilities) (map[string]string, error) {
	t.Helper()
	vals, err := chartutil.ReadValues([]byte(values))
	if err != nil {
		t.Fatal(err)
	}
	if err := chartutil.ProcessDependencies(c, vals); err != nil {
		t.Fatal(err)
	}
	all, err := chartutil.ToRenderValues(c, vals, chartutil.ReleaseOptions{Name: "belay", Namespace: "belay-system", IsInstall: true}, capabilities)
	if err != nil {
		return nil, err
	}
	files, err := engine.Engine{Strict: true}.Render(c, all)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for name, text := range files {
		if strings.HasSuffix(name, ".yaml") && strings.TrimSpace(text) != "" {
			out[strings.TrimPrefix(name, "belay/templates/")] = text
		}
	}
	return out, nil
}

func mustRender(t *testing.T, values string) map[string]string {
	t.Helper()
	files, err := render(t, values)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestLint(t *testing.T) {
	for _, values := range []string{"{}", "namespace: {create: true}", "podMonitor: {enabled: true}\nagent: {metrics: {address: 0.0.0.0}}", "action: remove", "orchestrator: {enabled: true}"} {
		vals, err := chartutil.ReadValues([]byte(values))
		if err != nil {
			t.Fatal(err)
		}
		l := lint.All(chartDir, vals, "belay-system", true)
		for _, m := range l.Messages {
			if m.Severity > support.InfoSev {
				t.Errorf("%s: %s", values, m)
			}
		}
	}
}

// TestStrict decodes what every set of values gives into the types of the API, which refuse a field
// that they do not have and one that is there twice.
func TestStrict(t *testing.T) {
	for _, tt := range []struct {
		name, values string
		objects      int
	}{
		{"defaults", "{}", 4},
		{"namespace", "namespace: {create: true}", 5},
		{"no network policy", "networkPolicy: {enabled: false}", 3},
		{"remove", "action: remove", 4},
		{"orchestrator", "orchestrator: {enabled: true}", 8},
		{"everything", `
image: {digest: "` + digest + `", tag: v1}
imagePullSecrets: [{name: pull}]
agent: {metrics: {address: "fd00::1", port: 9999}, flags: [--log-allowed, "--output=file:/var/log/belay.json"]}
policies: {floor: null, mine: "apiVersion: belay.dev/v1\nkind: RuntimePolicy\n"}
nodeSelector: {kubernetes.io/os: linux}
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
podLabels: {team: security}
podAnnotations: {a: b}
namespace: {create: true}
`, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := 0
			for name, text := range mustRender(t, tt.values) {
				for _, doc := range documents(t, text) {
					if _, _, err := strict.Decode(doc, nil, nil); err != nil {
						t.Errorf("%s: %v", name, err)
					}
					n++
				}
			}
			if n != tt.objects {
				t.Errorf("%d objects, want %d", n, tt.objects)
			}
		})
	}
}

var strict = json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{Yaml: true, Strict: true})

func documents(t *testing.T, text string) [][]byte {
	t.Helper()
	var out [][]byte
	r := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text)))
	for {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(bytes.TrimSpace(doc)) > 0 {
			out = append(out, doc)
		}
	}
}

// TestStrictSees holds the check itself to account.
func TestStrictSees(t *testing.T) {
	text := strings.Replace(mustRender(t, "{}")["daemonset.yaml"], "terminationGracePeriodSeconds:", "terminationGracePeriodSecond:", 1)
	if _, _, err := strict.Decode([]byte(text), nil, nil); err == nil {
		t.Error("a field that does not exist passes")
	}
}

func TestSchema(t *testing.T) {
	for _, values := range []string{
		"imgae: {tag: x}", "image: {digest: latest}", "image: {repository: ''}", "agent: {flags: ['--x=a b']}", "agent: {flags: ['--x=$(id)']}",
		"policies: {Bad_Name: x}", "policies: {a: 1}", "agent: {metrics: {address: localhost, port: 1}}", "agent: {metrics: {port: 0}}", "action: purge",
		"runtime: {containerd: run/x.sock}", "allowInstallers: [abc]", "allowBPF: [cilium]", "allowBPF: {namespaces: [kube-system]}", "orchestrator: {enabled: yes please}", "orchestrator: {evict: true}",
	} {
		if _, err := render(t, values); err == nil || !strings.Contains(err.Error(), "schema") {
			t.Errorf("%s: error %v, want one of the schema", values, err)
		}
	}
}

// TestMinors: each Kubernetes that docs/kubernetes.md names takes the chart, and gets the same; older ones do not.
func TestMinors(t *testing.T) {
	c := load(t)
	want := mustRender(t, "{}")
	for minor := 29; minor <= 37; minor++ {
		version := chartutil.KubeVersion{Version: fmt.Sprintf("v1.%d.0", minor), Major: "1", Minor: strconv.Itoa(minor)}
		if got := chartutil.IsCompatibleRange(c.Metadata.KubeVersion, version.Version); got != (minor >= 30) {
			t.Errorf("%s: the chart takes it: %t", version.Version, got)
		}
		capabilities := chartutil.DefaultCapabilities.Copy()
		capabilities.KubeVersion = version
		if got, err := renderOn(t, load(t), "{}", capabilities); err != nil || !maps.Equal(got, want) {
			t.Errorf("%s: rendered otherwise, or not: %v", version.Version, err)
		}
	}
}

func TestPodMonitor(t *testing.T) {
	if _, err := render(t, "podMonitor: {enabled: true}"); err == nil || !strings.Contains(err.Error(), "agent.metrics.address") {
		t.Errorf("a PodMonitor of what nobody reaches: %v", err)
	}
	files := mustRender(t, "podMonitor: {enabled: true, labels: {release: prom}}\nagent: {metrics: {address: 0.0.0.0}}")
	var m struct {
		Spec struct {
			PodMetricsEndpoints []struct {
				Relabelings []struct{ Action, Regex, Replacement, TargetLabel string }
			}
		}
	}
	if err := yaml.Unmarshal([]byte(files["podmonitor.yaml"]), &m); err != nil {
		t.Fatal(err)
	}
	if len(m.Spec.PodMetricsEndpoints) != 1 {
		t.Fatalf("got %+v", m)
	}
	rules := m.Spec.PodMetricsEndpoints[0].Relabelings
	// Prometheus makes a target for each container, the init container too, and each would be the node's.
	if rules[0].Action != "keep" || rules[0].Regex != "false" {
		t.Errorf("each node is scraped twice: %+v", rules)
	}
	for host, want := range map[string]string{"10.0.0.7": "10.0.0.7:9464", "fd00::7": "[fd00::7]:9464"} {
		if got := relabel(t, host, "__address__", rules[1:]); got != want {
			t.Errorf("node %s is scraped at %q, want %q", host, got, want)
		}
	}
}

// relabel does what Prometheus does with rules of action replace.
func relabel(t *testing.T, value, target string, rules []struct{ Action, Regex, Replacement, TargetLabel string }) (got string) {
	t.Helper()
	for _, r := range rules {
		re := regexp.MustCompile("^(?:" + cmp.Or(r.Regex, "(.*)") + ")$")
		if r.TargetLabel == target && re.MatchString(value) {
			got = re.ReplaceAllString(value, r.Replacement)
		}
	}
	return got
}

func decode[T any](t *testing.T, text string) *T {
	t.Helper()
	v := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestPods holds the pods to what they may have.
func TestPods(t *testing.T) {
	ds := decode[appsv1.DaemonSet](t, mustRender(t, "agent: {flags: [--log-allowed]}")["daemonset.yaml"])
	pod := ds.Spec.Template.Spec
	if pod.HostPID || pod.HostNetwork || pod.HostIPC || *pod.AutomountServiceAccountToken {
		t.Error("the pods have a namespace of the node's, or a token")
	}
	if len(pod.Tolerations) != 1 || pod.Tolerations[0].Operator != corev1.TolerationOpExists || pod.PriorityClassName != "system-node-critical" {
		t.Errorf("not on every node: %+v %q", pod.Tolerations, pod.PriorityClassName)
	}
	if u := ds.Spec.UpdateStrategy.RollingUpdate; u == nil || u.MaxSurge.IntValue() != 0 {
		t.Error("two pods of one node write at a time")
	}
	for _, c := range append(pod.InitContainers, pod.Containers...) {
		s := c.SecurityContext
		if s.Privileged != nil || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
			t.Errorf("%s: %+v", c.Name, s)
		}
		if c.Resources.Limits.Memory().IsZero() {
			t.Errorf("%s has no limit on memory", c.Name)
		}
	}
	if got := pod.InitContainers[0].SecurityContext.Capabilities.Add; !slices.Equal(got, []corev1.Capability{"SYS_CHROOT", "DAC_OVERRIDE"}) {
		t.Errorf("install has %v", got)
	}
	if hold := pod.Containers[0]; !*hold.SecurityContext.RunAsNonRoot || len(hold.SecurityContext.Capabilities.Add) > 0 || len(hold.VolumeMounts) > 0 {
		t.Errorf("what stays has more than nothing: %+v", hold)
	}
	if p := pod.Containers[0].ReadinessProbe.HTTPGet; p.Host != "127.0.0.1" || p.Port.IntValue() != 9464 || p.Path != "/healthz" {
		t.Errorf("readiness asks %+v", p)
	}
	want := []string{"--root=/host", "--policies=/policies", "--", "--docker-host=none", "--containerd=/run/containerd/containerd.sock", "--prometheus=127.0.0.1:9464", "--log-allowed"}
	if !slices.Equal(pod.InitContainers[0].Args, want) {
		t.Errorf("install is called with %q, want %q", pod.InitContainers[0].Args, want)
	}
}

// TestVersion: a version has characters that tags and labels have not.
func TestVersion(t *testing.T) {
	c := load(t)
	c.Metadata.Version, c.Metadata.AppVersion = "1.2.3-rc1+5.gabcdef0", "1.2.3~rc1+5.gabcdef0"
	files, err := renderChart(t, c, "{}")
	if err != nil {
		t.Fatal(err)
	}
	ds := decode[appsv1.DaemonSet](t, files["daemonset.yaml"])
	for k, v := range ds.Labels {
		if bad := validation.IsValidLabelValue(v); len(bad) > 0 {
			t.Errorf("label %s: %q: %q", k, v, bad)
		}
	}
	if got, want := ds.Spec.Template.Spec.Containers[0].Image, "belay-agent:1.2.3-rc1_5.gabcdef0"; got != want {
		t.Errorf("image %s, want %s", got, want)
	}
}

// TestRights: without orchestrator.enabled nobody has rights, and with it no more than the account needs.
func TestRights(t *testing.T) {
	if text, ok := mustRender(t, "{}")["orchestrator.yaml"]; ok {
		t.Errorf("rights by default: %s", text)
	}
	docs := documents(t, mustRender(t, "orchestrator: {enabled: true}")["orchestrator.yaml"])
	var got []string
	for _, r := range decode[rbacv1.ClusterRole](t, string(docs[0])).Rules {
		for _, what := range r.Resources {
			got = append(got, what+": "+strings.Join(r.Verbs, " "))
		}
	}
	want := []string{"nodes: get patch", "pods: get list", "pods/eviction: create", "persistentvolumeclaims: get", "persistentvolumes: get", "poddisruptionbudgets: list"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	subjects := decode[rbacv1.ClusterRoleBinding](t, string(docs[1])).Subjects
	account := decode[corev1.ServiceAccount](t, mustRender(t, "{}")["serviceaccount.yaml"])
	if len(subjects) != 1 || subjects[0].Name != account.Name || subjects[0].Namespace != account.Namespace {
		t.Errorf("%+v have the rights, and the account is %s/%s", subjects, account.Namespace, account.Name)
	}
	match := decode[admissionv1.ValidatingAdmissionPolicy](t, string(docs[2])).Spec.MatchConditions[0].Expression
	if want := `"system:serviceaccount:` + account.Namespace + ":" + account.Name + `"`; !strings.Contains(match, want) {
		t.Errorf("what it may do to nodes is narrowed if %s, want %s", match, want)
	}
}

func TestNetworkPolicy(t *testing.T) {
	np := decode[networkingv1.NetworkPolicy](t, mustRender(t, "{}")["networkpolicy.yaml"])
	if len(np.Spec.PolicyTypes) != 2 || len(np.Spec.Ingress)+len(np.Spec.Egress) > 0 {
		t.Errorf("the pods need no network: %+v", np.Spec)
	}
}

func TestPolicies(t *testing.T) {
	names := func(values string) []string {
		return slices.Sorted(maps.Keys(decode[corev1.ConfigMap](t, mustRender(t, values)["configmap.yaml"]).Data))
	}
	if got := names("{}"); !slices.Equal(got, []string{"floor.yaml"}) {
		t.Errorf("defaults: %q", got)
	}
	got := names("policies: {floor: null, mine: x}\nimage: {digest: \"" + digest + "\"}\nallowInstallers: [\"" + digest + "\"]")
	if !slices.Equal(got, []string{"belay-installer-0123456789ab.yaml", "mine.yaml"}) {
		t.Errorf("own ones: %q", got)
	}
	sum := func(values string) string {
		return decode[appsv1.DaemonSet](t, mustRender(t, values)["daemonset.yaml"]).Spec.Template.Annotations["belay.dev/policies"]
	}
	if sum("{}") == sum("policies: {mine: x}") {
		t.Error("other policies roll out no other pods")
	}
}

// runtimePolicy is what the chart's own policies are made of.
type runtimePolicy struct {
	APIVersion, Kind string
	Metadata         struct{ Name string }
	Spec             struct {
		Selector          map[string]string
		Mode              string
		Loosen            bool
		Guard, Exec, Host map[string]string
	}
}

// TestInstallerPolicy: what lets the chart's own pods past a floor lets that image alone, and in the release's namespace
// unless the values say otherwise.
func TestInstallerPolicy(t *testing.T) {
	for values, want := range map[string]map[string]string{
		"":                                {"imageDigest": digest, "namespace": "belay-system"},
		"\nallowInstallersAnywhere: true": {"imageDigest": digest},
	} {
		files := decode[corev1.ConfigMap](t, mustRender(t, "image: {digest: \""+digest+"\"}"+values)["configmap.yaml"]).Data
		p := decode[runtimePolicy](t, files["belay-installer-0123456789ab.yaml"])
		if !p.Spec.Loosen || !maps.Equal(p.Spec.Selector, want) {
			t.Errorf("%s: got %+v, want the selector %v", values, p.Spec, want)
		}
	}
}

// TestAllowBPF: each digest is a policy that lets one image call bpf(), beside the floor, and is said in the notes.
func TestAllowBPF(t *testing.T) {
	other := "sha256:" + strings.Repeat("f", 64)
	values := "allowBPF: [\"" + digest + "\", \"" + other + "\", \"" + other + "\"]\nimage: {digest: \"" + other + "\"}"
	files := decode[corev1.ConfigMap](t, mustRender(t, values)["configmap.yaml"]).Data
	want := []string{"belay-bpf-0123456789ab.yaml", "belay-bpf-ffffffffffff.yaml", "belay-installer-ffffffffffff.yaml", "floor.yaml"}
	if got := slices.Sorted(maps.Keys(files)); !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	p := decode[runtimePolicy](t, files[want[0]])
	if p.Metadata.Name != "belay-bpf-0123456789ab" || p.Spec.Mode != "enforce" || !p.Spec.Loosen ||
		!maps.Equal(p.Spec.Selector, map[string]string{"imageDigest": digest}) || !maps.Equal(p.Spec.Guard, map[string]string{"bpf": "allow"}) {
		t.Errorf("got %+v", p)
	}
	for values, want := range map[string]string{"{}": "set allowBPF", values: "restart their pods now"} {
		if notes := notes(t, values); !strings.Contains(notes, want) || !strings.Contains(notes, "bpf() by containers is denied") {
			t.Errorf("the notes do not say %q: %s", want, notes)
		}
	}
}

// notes is what helm install prints.
func notes(t *testing.T, values string) string {
	t.Helper()
	vals, err := chartutil.ReadValues([]byte(values))
	if err != nil {
		t.Fatal(err)
	}
	c := load(t)
	all, err := chartutil.ToRenderValues(c, vals, chartutil.ReleaseOptions{Name: "belay", Namespace: "belay-system", IsInstall: true}, chartutil.DefaultCapabilities)
	if err != nil {
		t.Fatal(err)
	}
	files, err := engine.Engine{Strict: true}.Render(c, all)
	if err != nil {
		t.Fatal(err)
	}
	return files["belay/templates/NOTES.txt"]
}

// TestManifest holds the manifests for kubectl apply to the chart. -update writes them.
func TestManifest(t *testing.T) {
	files := mustRender(t, "namespace: {create: true}")
	order := []string{"namespace.yaml", "serviceaccount.yaml", "configmap.yaml", "networkpolicy.yaml", "daemonset.yaml"}
	if len(files) != len(order) {
		t.Errorf("the chart gives %d files, the manifest has %d", len(files), len(order))
	}
	holdManifest(t, manifest, "The chart in deploy/helm/belay with its defaults", files, order)
	holdManifest(t, rights, "What orchestrator.enabled of the chart in deploy/helm/belay adds to the cluster", mustRender(t, "orchestrator: {enabled: true}"), []string{"orchestrator.yaml"})
}

func holdManifest(t *testing.T, path, what string, files map[string]string, order []string) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "# %s, for kubectl apply. Written by: go test . -update, in tools/charttest.\n", what)
	for _, name := range order {
		text := strings.ReplaceAll(files[name], "app.kubernetes.io/managed-by: Helm", "app.kubernetes.io/managed-by: kubectl")
		fmt.Fprintf(&b, "---\n%s\n", strings.TrimSpace(text))
	}
	if *update {
		if os.Getenv("CI") != "" {
			t.Fatal("-update is refused in CI")
		}
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != b.String() {
		t.Errorf("%s is not what the chart gives: go test . -update", path)
	}
}

// TestDocumented: each command of docs/kubernetes.md that calls Helm changes what the chart gives, with the values and
// the file of policies that it names, to something that the API takes.
func TestDocumented(t *testing.T) {
	raw, err := os.ReadFile("../../docs/kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	page := strings.NewReplacer("sha256:DIGEST", digest, "sha256:NEXT", digest).Replace(string(raw))
	_, shop, _ := strings.Cut(page, "a file `shop.yaml`")
	_, shop, _ = strings.Cut(shop, "```yaml\n")
	shop, _, _ = strings.Cut(shop, "```\n")
	calls := regexp.MustCompile("helm (?:install|upgrade) belay dist/release/belay-chart-\\*.tgz -n belay-system ([^`\n]+)").FindAllStringSubmatch(page, -1)
	if all := regexp.MustCompile("helm (?:install|upgrade) ").FindAllString(page, -1); len(calls) < 6 || len(calls) != len(all) {
		t.Fatalf("%d of %d calls of Helm are like the first", len(calls), len(all))
	}
	first := "{}" // what --reuse-values has
	for n, call := range calls {
		t.Run(call[1], func(t *testing.T) {
			text := "{}"
			words := strings.Fields(strings.ReplaceAll(call[1], `"`, ""))
			if words[0] == "--reuse-values" {
				text, words = first, words[1:]
			}
			before := mustRender(t, text)
			values := *decode[map[string]any](t, text)
			for ; len(words) > 1; words = words[2:] {
				switch {
				case words[0] == "--set":
					err = strvals.ParseInto(words[1], values)
				case words[0] == "-f" && words[1] == "shop.yaml":
					err = yaml.UnmarshalStrict([]byte(shop), &values)
				default:
					err = errors.New("not known here")
				}
				if err != nil {
					t.Fatalf("%s %s: %v", words[0], words[1], err)
				}
			}
			if len(words) > 0 {
				t.Fatalf("%s: not known here", words[0])
			}
			set, err := yaml.Marshal(values)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				first = string(set)
			}
			got := mustRender(t, string(set))
			if maps.Equal(got, before) {
				t.Error("it changes nothing")
			}
			for name, text := range got {
				for _, doc := range documents(t, text) {
					if _, _, err := strict.Decode(doc, nil, nil); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
			}
			if want, ok := values["policies"]; ok {
				files := decode[corev1.ConfigMap](t, got["configmap.yaml"]).Data
				if text := want.(map[string]any)["shop"]; files["shop.yaml"] != text {
					t.Errorf("shop.yaml on the nodes is %q, want %q", files["shop.yaml"], text)
				}
			}
		})
	}
}
