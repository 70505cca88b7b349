package buildkit

import (
	"fmt"
	"strings"

	"github.com/moby/buildkit/solver/pb"
)

// maxOps bounds the vertices of one request.
const maxOps = 1 << 16

// readDefinition adds what a graph asks for. Vertices are named by digests of their bytes:
// they cannot be written anew, and must be canonical.
func (s *asked) readDefinition(d *pb.Definition) error {
	if d == nil {
		return nil
	}
	if s.ops += len(d.Def); s.ops > maxOps {
		return fmt.Errorf("%w: more than %d vertices", ErrMessage, maxOps)
	}
	for _, raw := range d.Def {
		var op pb.Op
		if err := decodeCanonical(raw, &op); err != nil {
			return err
		}
		if err := s.readOp(&op); err != nil {
			return err
		}
	}
	for _, md := range d.Metadata {
		if md.GetLinuxResources() != nil {
			s.facts.LimitsSet = true
		}
	}
	return nil
}

func (s *asked) readOp(op *pb.Op) error {
	switch o := op.Op.(type) {
	case nil, *pb.Op_File, *pb.Op_Merge, *pb.Op_Diff:
		return nil // the end of a graph, and what works on files of the graph's own
	case *pb.Op_Source:
		return s.readSource(o.Source)
	case *pb.Op_Exec:
		s.readExec(o.Exec)
		return nil
	}
	// BuildOp asks for another build, from bytes that only the daemon will see.
	return fmt.Errorf("%w: a vertex of kind %T", ErrMessage, op.Op)
}

func (s *asked) readExec(e *pb.ExecOp) {
	if e.GetNetwork() == pb.NetMode_HOST {
		s.hostNetwork()
	}
	if e.GetSecurity() == pb.SecurityMode_INSECURE {
		s.entitle("security.insecure")
	}
	if len(e.GetCdiDevices()) > 0 {
		s.entitle("device")
	}
	m := e.GetMeta()
	s.cgroup(m.GetCgroupParent())
	for _, h := range m.GetExtraHosts() {
		s.add(&s.facts.ExtraHosts, h.GetHost()+":"+h.GetIP())
	}
	if len(m.GetUlimit()) > 0 {
		s.facts.LimitsSet = true
	}
}

// sourceAttrs are the attributes of sources (github.com/moby/buildkit, solver/pb/attr.go, v0.33) that
// have nothing fetched but what the identifier says. The session is asked for secrets and agents.
var sourceAttrs = map[string]bool{
	pb.AttrKeepGitDir: true, pb.AttrAuthHeaderSecret: true, pb.AttrAuthTokenSecret: true, pb.AttrKnownSSHHosts: true,
	pb.AttrMountSSHSock: true, pb.AttrGitChecksum: true, pb.AttrGitSkipSubmodules: true, pb.AttrGitMTime: true,
	pb.AttrGitFetchByCommit: true, pb.AttrGitCheckoutBundle: true, pb.AttrGitAdvice: true,
	pb.AttrGitSignatureVerifyPubKey: true, pb.AttrGitSignatureVerifyRejectExpired: true,
	pb.AttrGitSignatureVerifyRequireSignedTag: true, pb.AttrGitSignatureVerifyIgnoreSignedTag: true,

	pb.AttrLocalUniqueID: true, pb.AttrIncludePatterns: true, pb.AttrFollowPaths: true, pb.AttrExcludePatterns: true,
	pb.AttrSharedKeyHint: true, pb.AttrMetadataTransfer: true, pb.AttrMetadataTransferExclude: true, pb.AttrLocalDiffer: true,

	pb.AttrHTTPChecksum: true, pb.AttrHTTPFilename: true, pb.AttrHTTPPerm: true, pb.AttrHTTPUID: true, pb.AttrHTTPGID: true,
	pb.AttrHTTPAuthHeaderSecret: true, pb.AttrHTTPSignatureVerifyPubKey: true, pb.AttrHTTPSignatureVerify: true,

	pb.AttrImageResolveMode: true, pb.AttrImageRecordType: true, pb.AttrImageLayerLimit: true, pb.AttrImageChecksum: true,
	pb.AttrOCILayoutStoreID: true, pb.AttrOCILayoutLayerLimit: true,
}

func (s *asked) readSourceAttrs(attrs map[string]string) error {
	for k, v := range attrs {
		switch {
		case k == pb.AttrLocalSessionID, k == pb.AttrOCILayoutSessionID:
			s.session(v)
		case k == pb.AttrFullRemoteURL, k == pb.AttrGitBundle: // in place of the identifier
			s.remote(v)
		case sourceAttrs[k], strings.HasPrefix(k, pb.AttrHTTPHeaderPrefix):
		default:
			return fmt.Errorf("%w: a source's attribute %.64q is not known", ErrMessage, k)
		}
	}
	return nil
}

// readSource takes the schemes of v0.33 (github.com/moby/buildkit, source/types).
func (s *asked) readSource(src *pb.SourceOp) error {
	if err := s.readSourceAttrs(src.GetAttrs()); err != nil {
		return err
	}
	id := src.GetIdentifier()
	scheme, _, ok := strings.Cut(id, "://")
	if !ok {
		return fmt.Errorf("%w: a source without a scheme", ErrMessage)
	}
	switch scheme {
	case "docker-image": // as FROM is
	case "local", "oci-layout": // of the caller's session
	case "git", "http", "https":
		s.remote(id)
	default:
		return fmt.Errorf("%w: a source of the kind %.32q", ErrMessage, scheme)
	}
	return nil
}
