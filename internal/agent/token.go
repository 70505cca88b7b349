package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/gate/token"
)

// tokenDefault is how long a token is valid for which nothing was said.
const tokenDefault = 30 * 24 * time.Hour

// tokens answers for bearer tokens: it joins the store with the journal. It implements
// [control.Tokens].
type tokens struct {
	store  *token.Store
	broken error // why there is no store
	note   func(message string)
	now    func() time.Time
}

var _ control.Tokens = (*tokens)(nil)

// openTokens reads the bearer tokens. A file that cannot be read costs all of them, and nothing
// else.
func (a *Agent) openTokens() {
	a.tokens = &tokens{note: a.note, now: time.Now}
	if a.tokens.store, a.tokens.broken = token.Open(filepath.Join(a.cfg.StateDir, "tokens.json")); a.tokens.broken != nil {
		a.log.Error("bearer tokens cannot be read: all are refused", attr.Error, a.tokens.broken.Error())
		a.health.SetDegraded("tokens", a.tokens.broken.Error())
	}
}

// Verify implements [proxy.Tokens].
func (t *tokens) Verify(secret string, now time.Time) (string, error) {
	if t.broken != nil {
		return "", t.broken
	}
	return t.store.Verify(secret, now)
}

// CreateToken implements [control.Tokens].
func (t *tokens) CreateToken(_ context.Context, who *control.Caller, q *control.TokenRequest) (*control.NewToken, error) {
	if t.broken != nil {
		return nil, tokenError(t.broken)
	}
	lasts := q.For
	if lasts == 0 {
		lasts = tokenDefault
	}
	tok, text, err := t.store.Create(q.Name, lasts, who.Subject.UID, t.now())
	if err != nil {
		return nil, tokenError(err)
	}
	t.note(fmt.Sprintf("token %s was made by %s, valid until %s", tok.Name, who.Subject.Name, tok.Expires.Format(time.RFC3339)))
	return &control.NewToken{TokenInfo: t.describe(&tok), Token: text}, nil
}

// RevokeToken implements [control.Tokens].
func (t *tokens) RevokeToken(_ context.Context, who *control.Caller, q *control.TokenRequest) (*control.TokenInfo, error) {
	if t.broken != nil {
		return nil, tokenError(t.broken)
	}
	tok, err := t.store.Revoke(q.Name)
	if err != nil {
		return nil, tokenError(err)
	}
	t.note(fmt.Sprintf("token %s was revoked by %s", tok.Name, who.Subject.Name))
	info := t.describe(&tok)
	return &info, nil
}

// Tokens implements [control.Tokens].
func (t *tokens) Tokens(context.Context) (*control.TokenList, error) {
	if t.broken != nil {
		return nil, tokenError(t.broken)
	}
	out := &control.TokenList{Tokens: []control.TokenInfo{}}
	for _, tok := range t.store.List() {
		out.Tokens = append(out.Tokens, t.describe(&tok))
	}
	return out, nil
}

func (t *tokens) describe(tok *token.Token) control.TokenInfo {
	return control.TokenInfo{
		Name: tok.Name, Created: tok.Created, CreatedBy: tok.CreatedBy, Expires: tok.Expires, Expired: !t.now().Before(tok.Expires),
	}
}

// tokenError words an error of the store.
func tokenError(err error) error {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, token.ErrName), errors.Is(err, token.ErrLife):
		status = http.StatusBadRequest
	case errors.Is(err, token.ErrExists):
		status, err = http.StatusConflict, fmt.Errorf("%w; fix: belay token revoke it first, or use another name", err)
	case errors.Is(err, token.ErrFull):
		status, err = http.StatusConflict, fmt.Errorf("%w; fix: belay token revoke those that nobody needs", err)
	case errors.Is(err, token.ErrNotFound):
		status, err = http.StatusNotFound, fmt.Errorf("%w; fix: belay token list shows all", err)
	}
	return &control.Error{Status: status, Message: err.Error()}
}
