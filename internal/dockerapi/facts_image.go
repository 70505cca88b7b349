package dockerapi

import (
	"encoding/json"
	"net/url"
	"reflect"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/plugin"
	"github.com/opencontainers/go-digest"

	"github.com/belay-project/belay/internal/apicall"
)

// readImageRef splits the name of an image to use as the daemon does.
func (r *Request) readImageRef(name string) {
	f := &r.Call.Facts
	if isImageID(name) {
		f.Registry = UnknownRegistry
		return
	}
	f.Registry, f.Repository, f.Tag = splitImage(name)
}

// UnknownRegistry is the registry of an image that is named by its id or the beginning
// of one: it may come from anywhere.
const UnknownRegistry = "?"

// isImageID says that the daemon may take an image's name for an id. "cafe" could be
// either: where there is no image of the name, the daemon looks for one of the id.
func isImageID(name string) bool {
	return name != "" && strings.Trim(strings.TrimPrefix(name, "sha256:"), "0123456789abcdef") == ""
}

// splitImage returns registry ("docker.io" by default), repository and tag or digest
// of an image's name. All are empty for what is no name.
//
// The tag of a name without one is "latest", which is what the daemon takes.
func splitImage(name string) (registry, repository, tag string) {
	if short, tag, ok := plainImage(name); ok {
		return "docker.io", "library/" + short, tag
	}
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", "", ""
	}
	registry, repository = reference.Domain(named), reference.Path(named)
	if d, ok := named.(reference.Digested); ok {
		return registry, repository, d.Digest().String()
	}
	if t, ok := reference.TagNameOnly(named).(reference.Tagged); ok {
		tag = t.Tag()
	}
	return registry, repository, tag
}

// plainImage splits what most requests name: one word of small letters and digits, with or
// without a tag of such. The grammar of references takes it to be of Docker's own library,
// and takes longer to say so than all checks of a create.
func plainImage(name string) (short, tag string, ok bool) {
	short, tag, tagged := strings.Cut(name, ":")
	if !tagged {
		tag = "latest"
	}
	return short, tag, isWord(short) && isWord(tag)
}

func isWord(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return s != "" && len(s) < 64
}

// registryHost returns the host of a registry's address, which may be a URL.
func registryHost(address string) string {
	if address == "" {
		return "docker.io"
	}
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		address = u.Host
	} else {
		address, _, _ = strings.Cut(address, "/")
	}
	if address == "index.docker.io" || address == "registry-1.docker.io" {
		return "docker.io"
	}
	return address
}

// factsImageCreate reads POST /images/create: a pull if fromImage is there, else an
// import, whose source is a URL that the daemon fetches or the body.
func factsImageCreate(r *Request) error {
	f := &r.Call.Facts
	f.Platform = r.Query.Get("platform")
	if from := r.Query.Get("fromImage"); from != "" {
		return r.readPull(from)
	}
	r.Call.Action = actionImport
	src := r.Query.Get("fromSrc")
	switch {
	case src == "":
		return badRequest(CodeBadValue, "fromSrc", "neither fromImage nor fromSrc is given")
	case src != "-":
		f.Remote = src
		r.stream = false
	}
	f.Changes = r.Query.All("changes")
	if err := r.checkChanges(); err != nil {
		return err
	}
	r.readTarget("repo")
	return nil
}

func (r *Request) readPull(from string) error {
	f := &r.Call.Facts
	r.stream = false
	if r.Query.Get("fromSrc") != "" || r.Query.Has("changes") || r.Query.Get("repo") != "" {
		return badRequest(CodeBadValue, "fromImage", "a pull and an import in one request")
	}
	name := strings.TrimSuffix(from, ":")
	tag := r.Query.Get("tag")
	f.Image = name
	f.Registry, f.Repository, f.Tag = splitImage(name)
	if f.Repository == "" {
		return badRequest(CodeBadValue, "fromImage", "no image's name")
	}
	switch {
	case tag == "" && strings.HasSuffix(from, ":"), tag == "" && !hasTag(name):
		f.Tag = "" // every tag of the repository
		f.Bulk = true
	case tag == "":
	case digest.Digest(tag).Validate() == nil:
		f.Tag, f.Image = tag, trimTag(name)+"@"+tag
	default:
		if !reference.TagRegexp.MatchString(tag) || reference.TagRegexp.FindString(tag) != tag || hasDigest(name) {
			return badRequest(CodeBadValue, "tag", "no tag")
		}
		f.Tag, f.Image = tag, trimTag(name)+":"+tag
	}
	r.addResource(apicall.ResourceImage, f.Image, ref{})
	return nil
}

func hasTag(name string) bool {
	named, err := reference.ParseNormalizedNamed(name)
	return err == nil && !reference.IsNameOnly(named)
}

func hasDigest(name string) bool { return strings.Contains(name, "@") }

// trimTag cuts tag and digest off an image's name.
func trimTag(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[:i]
	}
	return name
}

// readTarget reads the name that an image is to have: the key's value and tag.
func (r *Request) readTarget(key string) {
	f := &r.Call.Facts
	repo := r.Query.Get(key)
	if repo == "" {
		return
	}
	f.Registry, f.Repository, f.Tag = splitImage(repo)
	f.Name = repo
	if tag := r.Query.Get("tag"); tag != "" {
		f.Tag = tag
		f.Name = trimTag(repo) + ":" + tag
	}
}

// factsTag reads POST /images/{name}/tag: the new name may hide another image.
func factsTag(r *Request) error {
	r.Call.Facts.Image = r.names[0]
	r.readTarget("repo")
	return nil
}

func factsPush(r *Request) error {
	f := &r.Call.Facts
	f.Image = r.names[0]
	f.Registry, f.Repository, f.Tag = splitImage(r.names[0])
	if tag := r.Query.Get("tag"); tag != "" {
		f.Tag = tag
	} else if !hasTag(r.names[0]) {
		f.Tag, f.Bulk = "", true // every tag of the repository
	}
	return nil
}

func factsSave(r *Request) error {
	names := r.Query.All("names")
	for _, n := range names {
		r.addResource(apicall.ResourceImage, n, ref{})
	}
	r.Call.Facts.Bulk = len(names) == 0
	return nil
}

func factsSearch(r *Request) error {
	f := &r.Call.Facts
	f.Registry = "docker.io"
	// "registry.example/term" searches that registry.
	if host, _, ok := strings.Cut(r.Query.Get("term"), "/"); ok && strings.ContainsAny(host, ".:") || host == "localhost" {
		f.Registry = host
	}
	return nil
}

func factsDistribution(r *Request) error {
	f := &r.Call.Facts
	f.Image = r.names[0]
	f.Registry, f.Repository, f.Tag = splitImage(r.names[0])
	return nil
}

// factsCommit reads POST /commit: an image is made of a container, with another
// configuration if the request has one.
func factsCommit(r *Request) error {
	f := &r.Call.Facts
	name := strings.TrimPrefix(r.Query.Get("container"), "/")
	if name == "" {
		return badRequest(CodeBadValue, "container", "the container is missing")
	}
	r.addResource(apicall.ResourceContainer, name, ref{kind: queryRef, key: "container"})
	if c, ok := r.Body.(*container.Config); ok {
		if err := r.readConfig(c, r.root); err != nil {
			return err
		}
	}
	f.Registry, f.Repository, f.Tag = "", "", ""
	r.readTarget("repo")
	f.Changes = r.Query.All("changes")
	return r.checkChanges()
}

// checkChanges refuses Dockerfile lines that set labels of ours.
func (r *Request) checkChanges() error {
	for _, c := range r.Call.Facts.Changes {
		if strings.Contains(c, ReservedLabelPrefix) {
			return badRequest(CodeLabelReserved, "changes", "labels below %s are the gate's own", ReservedLabelPrefix)
		}
	}
	return nil
}

// factsBuild reads POST /build, whose options are all in the query.
func factsBuild(r *Request) error {
	q, f := r.Query, &r.Call.Facts
	f.Remote, f.Platform, f.CgroupParent = q.Get("remote"), q.Get("platform"), q.Get("cgroupparent")
	f.ExtraHosts, f.Isolation, f.Squash = q.All("extrahosts"), q.Get("isolation"), q.Bool("squash")
	f.Path = q.Get("dockerfile")
	f.Limits = apicall.Limits{
		MemoryBytes: q.Int("memory"), CPUQuota: q.Int("cpuquota"), CPUPeriod: q.Int("cpuperiod"), CPUShares: q.Int("cpushares"),
	}
	for _, key := range []string{"memory", "cpuquota", "cpuperiod", "cpushares", "memswap", "cpusetcpus"} {
		f.LimitsSet = f.LimitsSet || q.Get(key) != "" && q.Get(key) != "0"
	}
	readSecurityOpt(f, q.All("securityopt"))
	mode := q.Get("networkmode")
	if strings.HasPrefix(mode, "container:") {
		f.Namespaces = append(f.Namespaces, "net="+mode)
		r.addResource(apicall.ResourceContainer, strings.TrimPrefix(mode, "container:"), ref{kind: queryRef, key: "networkmode", pre: "container:"})
	} else {
		r.joinNetwork(mode, ref{kind: queryRef, key: "networkmode"})
	}
	for _, t := range q.All("t") {
		if t != "" {
			r.addResource(apicall.ResourceImage, t, ref{})
			f.Tags = append(f.Tags, t)
		}
	}
	if len(f.Tags) > 0 {
		f.Registry, f.Repository, f.Tag = splitImage(f.Tags[0])
	}
	f.Frontend = "dockerfile.v0"
	f.SessionID, f.BuildKit = q.Get("session"), q.Get("version") == "2"
	if f.Remote == "client-session" {
		f.Remote = "" // the context comes over the caller's own session
	}
	if mode == network.NetworkHost {
		f.Entitled = append(f.Entitled, "network.host")
	}
	if id := q.Get("session"); id != "" {
		r.addResource(apicall.ResourceSession, id, ref{})
	}
	if v := q.Get("version"); v != "" && v != "1" && v != "2" {
		return badRequest(CodeBadValue, "version", "the builder must be 1 or 2")
	}
	return r.readBuildJSON()
}

func factsBuildCancel(r *Request) error {
	r.addResource(apicall.ResourceBuild, r.Query.Get("id"), ref{})
	return nil
}

// readBuildJSON reads the query values of a build that are JSON.
func (r *Request) readBuildJSON() error {
	f := &r.Call.Facts
	var args map[string]*string
	if err := r.queryJSON("buildargs", &args); err != nil {
		return err
	}
	for k, v := range args {
		if f.BuildArgs == nil {
			f.BuildArgs = make(map[string]string, len(args))
		}
		f.BuildArgs[k] = ""
		if v != nil {
			f.BuildArgs[k] = *v
		}
		if k == "BUILDKIT_SYNTAX" && v != nil && *v != "" {
			f.Frontend = apicall.FrontendImage(*v) // an image that runs as the builder's front end
		}
	}
	var labels map[string]string
	if err := r.queryJSON("labels", &labels); err != nil {
		return err
	}
	for k := range labels {
		if isReserved(k) {
			return badRequest(CodeLabelReserved, "labels", "labels below %s are the gate's own", ReservedLabelPrefix)
		}
	}
	f.Labels = labels
	var from []string
	if err := r.queryJSON("cachefrom", &from); err != nil {
		return err
	}
	for _, n := range from {
		r.addResource(apicall.ResourceImage, n, ref{})
	}
	var ulimits []*container.Ulimit
	if err := r.queryJSON("ulimits", &ulimits); err != nil {
		return err
	}
	f.LimitsSet = f.LimitsSet || len(ulimits) > 0
	var outputs []buildOutput
	if err := r.queryJSON("outputs", &outputs); err != nil {
		return err
	}
	f.Outputs = r.Query.Get("outputs")
	for _, o := range outputs {
		if err := r.readOutput(&o); err != nil {
			return err
		}
	}
	return nil
}

// buildOutput is an element of the query value outputs.
type buildOutput struct {
	Type  string
	Attrs map[string]string
}

// readOutput adds the names that BuildKit's exporters give to an image. A push is another action, and
// what the build's result says its name is ("*", image.name) nobody knows before.
func (r *Request) readOutput(o *buildOutput) error {
	names := o.Attrs["name"] + "," + o.Attrs["dangling-name-prefix"]
	push, pushed := o.Attrs["push"]
	if _, named := o.Attrs["image.name"]; named || pushed && push != "false" || strings.Contains(names, "*") {
		return badRequest(CodeBadValue, "outputs", "an output has its names in the request and is not pushed; fix: name the image with t, and push it when it is built")
	}
	for n := range strings.SplitSeq(names, ",") {
		if n != "" {
			r.addResource(apicall.ResourceImage, n, ref{})
			r.Call.Facts.Tags = append(r.Call.Facts.Tags, n)
		}
	}
	return nil
}

// queryJSON reads a query value as strictly as a body, into the type that the daemon
// uses, and puts our own encoding of it in its place.
func (r *Request) queryJSON(key string, target any) error {
	raw := r.Query.Get(key)
	if raw == "" {
		return nil
	}
	n, dropped, err := readJSON([]byte(raw), schemaOf(reflect.TypeOf(target)), r.opt, key)
	if err != nil {
		return err
	}
	r.Call.Facts.DroppedFields = append(r.Call.Facts.DroppedFields, dropped...)
	own := appendJSON(nil, n)
	if err := json.Unmarshal(own, target); err != nil {
		return badRequest(CodeBadValue, key, "the value has a type that the API does not take")
	}
	r.Query = r.Query.set(key, string(own))
	return nil
}

// factsPluginRemote reads the routes that take a plugin from a registry. What its
// configuration asks for is in the body; that the plugin asks for no more is what the
// daemon compares, and what daemons before 29.3.1 compare wrongly (CVE-2026-33997).
func factsPluginRemote(r *Request) error {
	f := &r.Call.Facts
	f.Remote = r.Query.Get("remote")
	if f.Remote == "" {
		return badRequest(CodeBadValue, "remote", "the plugin's reference is missing")
	}
	f.Image = f.Remote
	f.Registry, f.Repository, f.Tag = splitImage(f.Remote)
	if name := r.Query.Get("name"); name != "" {
		f.Name = name
		r.addResource(apicall.ResourcePlugin, name, ref{})
	}
	if b, ok := r.Body.(*plugin.Privileges); ok {
		for _, p := range *b {
			f.PluginPrivileges = append(f.PluginPrivileges, pluginPrivilege(p.Name, p.Value)...)
		}
	}
	return nil
}

// pluginPrivilege returns "name=value" for each value, and "name" if there is none.
func pluginPrivilege(name string, values []string) []string {
	if len(values) == 0 {
		return []string{name}
	}
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = name + "=" + v
	}
	return out
}

func factsPluginPush(r *Request) error { return factsDistribution(r) }

// factsPluginSet reads POST /plugins/{name}/set: settings may be mounts' sources and
// devices' paths of a plugin that runs as root.
func factsPluginSet(r *Request) error {
	for _, s := range *r.Body.(*[]string) {
		r.Call.Facts.PluginPrivileges = append(r.Call.Facts.PluginPrivileges, "set:"+s)
	}
	return nil
}

func factsPluginCreate(r *Request) error {
	name := r.Query.Get("name")
	if name == "" {
		return badRequest(CodeBadValue, "name", "the plugin's name is missing")
	}
	r.Call.Facts.Name = name
	r.addResource(apicall.ResourcePlugin, name, ref{})
	return nil
}
