package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/control"
)

func tokenCommand(t *terminal) *cobra.Command {
	return group("token", "Make and revoke bearer tokens for programs that call Docker through the gate",
		`A bearer token is a name that policies know (subjects: {tokens: [NAME]}) and a secret
that its holder sends with each request. Who shows one is the token, whatever user,
container or certificate connected, and a token that is not valid is refused. It gives
no right that no policy gives its name.

The agent keeps hashes only: a token is shown once, when it is made. Only root of the
host makes, lists and revokes tokens.`,
		`  belay token create ci-1 --for 7d
  belay token list
  belay token revoke ci-1`,
		tokenCreateCommand(t), tokenListCommand(t), tokenRevokeCommand(t))
}

func tokenCreateCommand(t *terminal) *cobra.Command {
	var lasts string
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a token and show it, once",
		Long: `create makes a token. Its text is shown once and kept nowhere; Docker's clients send
it with the field HttpHeaders of their config.json, other programs as
"Authorization: Bearer TEXT".`,
		Example: "  belay token create ci-1 --for 7d",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := &control.TokenRequest{Name: args[0]}
			if lasts != "" {
				d, ok := parseAge(lasts)
				if !ok || d == 0 {
					return errors.New(`--for: want a time such as "12h" or "30d"`)
				}
				q.For = d
			}
			n, err := t.client().CreateToken(cmd.Context(), q)
			if err != nil {
				return err
			}
			if t.output == formatJSON {
				return t.writeJSON(n)
			}
			fmt.Fprintf(t.out, "Token %s is valid until %s. It is shown this once:\n\n  %s\n\n", clean(n.Name), n.Expires.In(time.Local).Format(time.DateTime), clean(n.Token))
			fmt.Fprintf(t.out, "Docker's clients send it with this in their config.json, which nobody else should be able to read:\n\n"+
				"  {\"HttpHeaders\": {\"Authorization\": \"Bearer %s\"}}\n\n", clean(n.Token))
			fmt.Fprintf(t.out, "It can do what policies let tokens: [%s] do.\n", clean(n.Name))
			return nil
		},
	}
	cmd.Flags().StringVar(&lasts, "for", "", "how long it is valid, such as 12h or 30d (default 30d, at most 366d)")
	return cmd
}

func tokenListCommand(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Show all tokens, not their secrets",
		Long: `list shows the names of all tokens, when and by whom they were made, and for how long
they are valid. One that has expired stays in the list, and its name taken, until it
is revoked. Nothing shows the secret of a token again.`,
		Example: "  belay token list\n  belay token list -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := t.client().Tokens(cmd.Context())
			if err != nil {
				return err
			}
			if t.output == formatJSON {
				return t.writeJSON(l)
			}
			if len(l.Tokens) == 0 {
				fmt.Fprintln(t.out, "There are no tokens.")
				return nil
			}
			tb := t.table("", "NAME", "MADE", "BY UID", "VALID FOR")
			for i := range l.Tokens {
				k := &l.Tokens[i]
				left := plain(spell(k.Expires.Sub(t.now())))
				if k.Expired {
					left = cell{"expired", yellow}
				}
				tb.row(plain(k.Name), plain(t.ago(k.Created)), plain(fmt.Sprint(k.CreatedBy)), left)
			}
			tb.writeTo(t.out)
			return nil
		},
	}
}

func tokenRevokeCommand(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "revoke NAME", Short: "End a token: the next request with it is refused",
		Long: `revoke ends a token at once, also on connections that are open. A stream that it has
begun, such as a shell in a container, goes on until it ends. The name is free again:
a new token of it has the rights, and what is owned by it.`,
		Example: "  belay token revoke ci-1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := t.client().RevokeToken(cmd.Context(), &control.TokenRequest{Name: args[0]})
			if err != nil {
				return err
			}
			if t.output == formatJSON {
				return t.writeJSON(k)
			}
			fmt.Fprintf(t.out, "Token %s is revoked. What is open under it goes on: see belay events.\n", clean(k.Name))
			return nil
		},
	}
}
