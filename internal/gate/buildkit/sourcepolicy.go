package buildkit

import (
	"context"
	"errors"
	"fmt"

	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/belay-project/belay/internal/apicall"
)

// Fields of CheckPolicyResponse and of its DecisionResponse, by which a client answers what
// becomes of a source (github.com/moby/buildkit, sourcepolicy/policysession). They are read by
// number: the package of their types brings a whole client with it.
const (
	checkDecision, checkRequest                       = 1, 2
	decisionAction, decisionMessages, decisionInstead = 1, 2, 3
)

var errPolicyAnswer = fmt.Errorf("%w: an answer about a source that is not known", ErrMessage)

// sources judges what the client puts in the place of a source, or wants to know about one,
// as if its build had asked for it.
func (p *sessionSide) sources(ctx context.Context, method string, raw []byte) ([]byte, error) {
	var s asked
	err := eachOnce(raw, func(num protowire.Number, value []byte) error {
		switch num {
		case checkDecision:
			return s.readDecision(value)
		case checkRequest:
			var m gateway.ResolveSourceMetaRequest
			if err := decode(value, &m); err != nil {
				return err
			}
			return errors.Join(s.readPolicies(m.SourcePolicies), s.readInstead(m.Source))
		}
		return errPolicyAnswer
	})
	if err = errors.Join(err, s.err); err != nil {
		return nil, refuse(p.judge, method, err)
	}
	for _, id := range s.sessions {
		if !p.judge.OwnsSession(ctx, id) {
			p.judge.Refused(method, CauseForeign, "a session that is not the caller's")
			return nil, denied("the session is not one that the caller opened through the gate")
		}
	}
	for _, ref := range s.remotes {
		if err := ctx.Err(); err != nil {
			return nil, status.FromContextError(err).Err()
		}
		if v := p.judge.Ask(&Question{Method: method, Action: actionSolve, Facts: apicall.Facts{Remote: ref, BuildKit: true}}); !v.Allowed {
			return nil, denied(v.Message)
		}
	}
	return raw, nil
}

func (s *asked) readDecision(raw []byte) error {
	return eachOnce(raw, func(num protowire.Number, value []byte) error {
		switch num {
		case decisionAction, decisionMessages:
			return nil
		case decisionInstead:
			var src pb.SourceOp
			if err := decode(value, &src); err != nil {
				return err
			}
			return s.readInstead(&src)
		}
		return errPolicyAnswer
	})
}

func (s *asked) readInstead(src *pb.SourceOp) error {
	if src.GetIdentifier() == "" && len(src.GetAttrs()) == 0 {
		return nil
	}
	return s.readSource(src)
}

// eachOnce calls f for each field of a message, with what it holds if that is bytes. A field
// that comes twice would be merged by who reads it: only lists of texts may.
func eachOnce(b []byte, f func(num protowire.Number, value []byte) error) error {
	seen := map[protowire.Number]bool{}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errors.New("not well-formed")
		}
		b = b[n:]
		m := protowire.ConsumeFieldValue(num, typ, b)
		if m < 0 {
			return errors.New("not well-formed")
		}
		var value []byte
		if typ == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(b)
		} else if typ != protowire.VarintType || num != decisionAction {
			return errPolicyAnswer
		}
		if seen[num] && num != decisionMessages {
			return errPolicyAnswer
		}
		seen[num] = true
		if err := f(num, value); err != nil {
			return err
		}
		b = b[m:]
	}
	return nil
}
