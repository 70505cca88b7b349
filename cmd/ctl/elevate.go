package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/control"
)

func elevateCommand(t *terminal) *cobra.Command {
	var (
		q          control.ElevateRequest
		list, drop bool
		user       string
	)
	cmd := &cobra.Command{
		Use:   "elevate",
		Short: "Show your second factor: for a while this session may do what requires one",
		Long: `elevate takes a code of your authenticator, or a recovery code, and for a while the
calls of this login session to Docker's API, through the gate, pass rules with
"require: secondFactor". Nothing else changes: what policies deny stays denied.

It holds for your uid in this login session, for the actions of --action (all), on the
container of --target (all things). It ends after --for, with --drop, when the second
factor is removed, and when the agent restarts. What is open then, such as a shell in a
container, goes on.

An action is a name of docs/access-policy.md, a glob, or one word: "exec" is
container.exec with what belongs to it, "volume" all that is done to volumes.

Codes are read without echo at a terminal, else from standard input.`,
		Example: `  belay elevate
  belay elevate --for 5m --action exec --target web-1
  belay elevate --list
  belay elevate --drop`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case list && drop:
				return badUsage("--list and --drop exclude each other")
			case len(args) > 0 && !drop:
				return badUsage("elevate takes no argument but IDs after --drop, got %q", args)
			case user != "" && !drop:
				return badUsage("--user goes with --drop: nobody shows the second factor of another")
			case list:
				return t.listElevations(cmd)
			case drop:
				return t.dropElevations(cmd, user, args)
			}
			return t.elevate(cmd, &q)
		},
	}
	f := cmd.Flags()
	f.DurationVar(&q.For, "for", 0, "how long (default 15m; the agent has a maximum)")
	f.StringArrayVar(&q.Actions, "action", nil, "`action`, glob or word (repeatable; default: all)")
	f.StringVar(&q.Target, "target", "", "the only `container`, by name or ID (default: all things)")
	f.BoolVar(&list, "list", false, "show the second factor and what is live; root sees everybody's")
	f.BoolVar(&drop, "drop", false, "end elevations: those with the IDs given, or all of yours")
	f.StringVar(&user, "user", "", "with --drop: another `user`'s, for root")
	return cmd
}

func (t *terminal) elevate(cmd *cobra.Command, q *control.ElevateRequest) error {
	var err error
	if q.Code, err = t.readCode(cmd.Context(), "Code: "); err != nil {
		return err
	}
	e, err := t.factorClient().Elevate(cmd.Context(), q)
	if err != nil {
		return err
	}
	if t.output == formatJSON {
		return t.writeJSON(e)
	}
	fmt.Fprintf(t.out, "%s for %s: %s on %s, in this login session (%s), until %s. ID %s\n", t.colours.paint(green, "Elevated"),
		spell(e.Expires.Sub(e.Granted)), clean(strings.Join(e.Actions, ", ")), clean(targetText(e)), clean(e.Session),
		e.Expires.In(time.Local).Format("15:04:05"), clean(e.ID))
	if e.Recovery {
		fmt.Fprintln(t.out, t.colours.paint(yellow, fmt.Sprintf("A recovery code was used up; %d are left.", e.RecoveryLeft)))
	}
	if e.Refused > 0 {
		fmt.Fprintln(t.out, t.colours.paint(yellow, count(e.Refused, "code was", "codes were")+
			" refused since your last. If that was not you, someone has your account: see belay events."))
	}
	return nil
}

func targetText(e *control.Elevation) string {
	switch {
	case e.Target == "":
		return "all things"
	case e.Name != "":
		return e.Name
	}
	return e.Target[:min(12, len(e.Target))]
}

func (t *terminal) listElevations(cmd *cobra.Command) error {
	fs, err := t.factorClient().Factors(cmd.Context())
	if err != nil {
		return err
	}
	if t.output == formatJSON {
		return t.writeJSON(fs)
	}
	if len(fs.Users) == 0 {
		fmt.Fprintln(t.out, "No second factor is enrolled: run belay enroll.")
	} else {
		tb := t.table("", "USER", "ENROLLED", "RECOVERY CODES", "REFUSED", "NOTE")
		for i := range fs.Users {
			u := &fs.Users[i]
			note := ""
			switch {
			case u.Unreadable != "":
				note = "cannot be read: " + u.Unreadable
			case !u.LockedUntil.IsZero():
				note = "locked for " + spell(u.LockedUntil.Sub(t.now()))
			case u.EnrolledBy != u.UID:
				note = fmt.Sprintf("enrolled by uid %d", u.EnrolledBy)
			}
			tb.row(plain(userText(u.User, u.UID)), plain(t.ago(u.Enrolled)), plain(fmt.Sprint(u.Recovery)), plain(fmt.Sprint(u.Refused)), cell{note, yellow})
		}
		tb.writeTo(t.out)
	}
	if len(fs.Elevations) == 0 {
		fmt.Fprintln(t.out, "No elevation is live.")
		return nil
	}
	fmt.Fprintln(t.out)
	tb := t.table("", "ID", "USER", "ACTIONS", "ON", "ENDS IN", "USES", "SESSION")
	for i := range fs.Elevations {
		e := &fs.Elevations[i]
		session := e.Session
		if e.Here {
			session += " (this one)"
		}
		tb.row(plain(e.ID), plain(userText(e.User, e.UID)), plain(strings.Join(e.Actions, ",")), plain(targetText(e)),
			plain(spell(e.Expires.Sub(t.now()))), plain(fmt.Sprint(e.Uses)), plain(session))
	}
	tb.writeTo(t.out)
	return nil
}

func userText(name string, uid uint32) string {
	if name != "" {
		return name
	}
	return fmt.Sprint(uid)
}

func (t *terminal) dropElevations(cmd *cobra.Command, user string, ids []string) error {
	d, err := t.factorClient().Drop(cmd.Context(), &control.DropRequest{IDs: ids, User: user})
	if err != nil {
		return err
	}
	if t.output == formatJSON {
		return t.writeJSON(d)
	}
	fmt.Fprintf(t.out, "%s dropped.\n", count(len(d.Elevations), "elevation", "elevations"))
	return nil
}
