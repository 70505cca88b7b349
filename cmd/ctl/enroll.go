package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/control"
)

func enrollCommand(t *terminal) *cobra.Command {
	var (
		remove, noQR  bool
		user, confirm string
	)
	cmd := &cobra.Command{
		Use:   "enroll",
		Short: "Set up your second factor, for rules that require one",
		Long: `enroll makes a secret for an authenticator app (TOTP: SHA-1, 6 digits, 30 seconds) and
shows it as a QR code and as text. The second factor is live when the first code was
shown; recovery codes, each for one use in place of a code, are then printed once.

Every user of the host may run it, if the agent was not told otherwise; a process in a
container may not. Codes are read without echo at a terminal, else from standard input.

With -o json it prints the secret and does not ask for a code: give the first code to
"belay enroll --confirm ID" within ten minutes.

--remove takes your second factor away, for a code or a recovery code, and ends your
elevations. Root may name another user with --user, to enrol him, or to take away his
second factor with no code.`,
		Example: `  belay enroll
  belay enroll --remove
  sudo belay enroll --remove --user alice
  belay enroll -o json
  belay enroll --confirm 3f0c5a7e9d1b2c4d <code.txt`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case remove && confirm != "":
				return badUsage("--remove and --confirm exclude each other")
			case remove:
				return t.removeFactor(cmd, user)
			case confirm != "":
				return t.confirmFactor(cmd, user, confirm)
			}
			return t.enroll(cmd, user, !noQR)
		},
	}
	cmd.Flags().BoolVar(&remove, "remove", false, "take the second factor away")
	cmd.Flags().StringVar(&user, "user", "", "another `user` than yourself, by name or uid; for root")
	cmd.Flags().StringVar(&confirm, "confirm", "", "`ID` of an enrolment that was begun with -o json")
	cmd.Flags().BoolVar(&noQR, "no-qr", false, "print no QR code")
	return cmd
}

func (t *terminal) enroll(cmd *cobra.Command, user string, qr bool) error {
	e, err := t.factorClient().Enrol(cmd.Context(), &control.EnrolRequest{User: user})
	if err != nil {
		return err
	}
	if t.output == formatJSON {
		return t.writeJSON(e)
	}
	if qr && t.colours.terminal() {
		code, err := qrCode(e.URI)
		if err != nil {
			return err
		}
		fmt.Fprintln(t.out, code)
	}
	fmt.Fprintf(t.out, "Scan the code with an authenticator app, or enter the secret there:\n\n  %s\n  %s\n\n", spaced(e.Secret), clean(e.URI))
	fmt.Fprintf(t.out, "The agent keeps it sealed; its key is from: %s\n", clean(e.Key))
	return t.confirmFactor(cmd, user, e.ID)
}

func (t *terminal) confirmFactor(cmd *cobra.Command, user, id string) error {
	code, err := t.readCode(cmd.Context(), "First code: ")
	if err != nil {
		return err
	}
	done, err := t.factorClient().Confirm(cmd.Context(), &control.ConfirmRequest{User: user, ID: id, Code: code})
	if err != nil {
		return err
	}
	if t.output == formatJSON {
		return t.writeJSON(done)
	}
	fmt.Fprintln(t.out, t.colours.paint(green, "The second factor is live."))
	fmt.Fprintln(t.out, "\nRecovery codes, each for one use in place of a code. They are not shown again:")
	for _, c := range done.Recovery {
		fmt.Fprintln(t.out, "  "+clean(c))
	}
	return nil
}

func (t *terminal) removeFactor(cmd *cobra.Command, user string) error {
	q := &control.RemoveRequest{User: user}
	if user == "" {
		var err error
		if q.Code, err = t.readCode(cmd.Context(), "Code or recovery code: "); err != nil {
			return err
		}
	}
	done, err := t.factorClient().Remove(cmd.Context(), q)
	if err != nil {
		return err
	}
	if t.output == formatJSON {
		return t.writeJSON(done)
	}
	fmt.Fprintf(t.out, "The second factor of uid %d is removed; %s ended.\n", done.UID, count(done.Dropped, "elevation", "elevations"))
	return nil
}

// spaced writes a secret in groups of four, as people copy it.
func spaced(s string) string {
	var b strings.Builder
	for i, r := range clean(s) {
		if i > 0 && i%4 == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return b.String()
}
