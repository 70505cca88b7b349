package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/belay-project/belay/internal/scan/accept"
	"github.com/belay-project/belay/internal/scan/ci"
)

// ciTokenEnv has a bearer token where no file is named: arguments are for all to see.
const ciTokenEnv = "BELAY_TOKEN" //nolint:gosec // the name of a variable

// ciFlags are how to reach the scan API.
type ciFlags struct {
	server, tokenFile, ca, cert, key string
	output                           scanFormat
	wait                             time.Duration
}

func ciCommand(t *terminal) *cobra.Command {
	return group("ci", "Have the agent of this or another host scan images, for build pipelines",
		`The agent scans with its own database and its own credentials for registries, and tells
the verdict. Access policies decide who may (actions scan.*).`,
		`  belay ci scan registry.example/team/app@sha256:... --fail-on high --server https://scan.example:8447 --token-file token`,
		ciScanCommand(t), ciShowCommand(t), ciListCommand(t))
}

const ciExits = `
Exit status: 0 it passes; 1 not done, or denied; 2 not understood; 3 there are findings
that --fail-on means; 4 there are none, but something could not be read or matched.`

func (f *ciFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.server, "server", "", "`https://HOST[:PORT]` of the agent's scan API (default: scans.sock in --run-dir)")
	fl.StringVar(&f.tokenFile, "token-file", "", "`file` with a bearer token (default: $"+ciTokenEnv+", if it is set)")
	fl.StringVar(&f.ca, "ca", "", "`file` of certificates that sign the server's (default: the system's)")
	fl.StringVar(&f.cert, "cert", "", "`file` of a client certificate")
	fl.StringVar(&f.key, "key", "", "`file` of its key")
}

func (f *ciFlags) addResult(fl *pflag.FlagSet) {
	f.add(fl)
	fl.VarP(&f.output, "output", "o", "output format")
	fl.DurationVar(&f.wait, "wait", 30*time.Minute, "`time` to wait for the result; 0: do not wait")
}

func ciScanCommand(t *terminal) *cobra.Command {
	f, q := &ciFlags{output: "text"}, &ci.Request{}
	var ignore, baseline string
	cmd := &cobra.Command{
		Use:   "scan IMAGE",
		Short: "Have an image scanned, and wait for the verdict",
		Long: `scan asks the agent for a scan of IMAGE: the ID or a name of an image of the agent's
host, the name of one in a registry (HOST/NAME[:TAG][@DIGEST]), or registry:NAME. Name an
image by its digest: a tag may mean another one by the time that it is fetched.

--fail-on takes what "belay scan --fail-on" takes. With --wait 0 the ID of the scan is
printed; "belay ci show ID" waits for it then.
` + ciExits,
		Example: `  belay ci scan app:1 --fail-on critical
  belay ci scan registry.example/team/app@sha256:... --fail-on 'exploited || severity >= high && fixable' -o sarif > scan.sarif`,
		Args: oneArgument("one image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Image = args[0]
			if err := readAccepted(q, ignore, baseline); err != nil {
				return err
			}
			return t.ciScan(cmd.Context(), f, q)
		},
	}
	fl := cmd.Flags()
	f.addResult(fl)
	fl.StringVar(&q.FailOn, "fail-on", "", "fail on findings of `SEVERITY|EXPRESSION`: of this severity or above, or for which the expression holds")
	fl.StringVar(&ignore, "ignore", "", "`file` of accepted vulnerabilities and misconfigurations, with reasons; a policy must allow scan.accept")
	fl.StringVar(&baseline, "baseline", "", "`report` of an earlier scan (-o json): what it has does not count; a policy must allow scan.accept")
	fl.BoolVar(&q.AllowIncomplete, "allow-incomplete", false, "pass though something could not be read or matched")
	fl.StringVar(&q.Platform, "platform", "", "which image of several: `os/arch[/variant]`")
	return cmd
}

// readAccepted reads what does not count in the verdict. Errors name the file, and the line of
// an ignore file.
func readAccepted(q *ci.Request, ignore, baseline string) error {
	if ignore != "" {
		b, err := os.ReadFile(ignore)
		if err == nil {
			_, err = accept.ParseIgnores(ignore, b)
		}
		if err != nil {
			return fmt.Errorf("--ignore: %w", err)
		}
		q.Ignore = string(b)
	}
	if baseline != "" {
		b, err := os.ReadFile(baseline)
		if err == nil {
			q.Baseline, err = accept.Reduce(b)
		}
		if err != nil {
			return fmt.Errorf("--baseline: %w", err)
		}
	}
	return nil
}

func ciShowCommand(t *terminal) *cobra.Command {
	f := &ciFlags{output: "text"}
	cmd := &cobra.Command{
		Use:     "show ID",
		Short:   "Wait for a scan, and show its verdict and findings",
		Long:    `show waits for a scan that was asked for, or that a registry's event has queued.` + "\n" + ciExits,
		Example: `  belay ci show 0123456789abcdef0123456789abcdef -o json`,
		Args:    oneArgument("the ID of one scan"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client(t)
			if err != nil {
				return err
			}
			return t.ciResult(cmd.Context(), c, f, args[0])
		},
	}
	f.addResult(cmd.Flags())
	return cmd
}

func ciListCommand(t *terminal) *cobra.Command {
	f := &ciFlags{}
	cmd := &cobra.Command{
		Use:   "list [IMAGE]",
		Short: "List the scans that you may see, the newest first",
		Long: `list shows the scans that were asked for or that registries' events have queued, as far as
policies let you read them: of one image, named as it was asked for, or of all. Those of
events are named registry:HOST/NAME@DIGEST.`,
		Example: `  belay ci list registry:registry.example/team/app@sha256:...`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return errors.New("want one image, or none")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client(t)
			if err != nil {
				return err
			}
			l, err := c.List(cmd.Context(), strings.Join(args, ""))
			if err != nil {
				return err
			}
			if t.output == formatJSON {
				return t.writeJSON(l)
			}
			tb := t.table("", "ID", "STATE", "VERDICT", "CREATED", "OWNER", "IMAGE")
			for i := range l.Scans {
				s := &l.Scans[i]
				tb.row(plain(s.ID), plain(s.State), plain(orDash(s.Verdict)), plain(t.ago(s.Created)), plain(s.Owner), plain(s.Image))
			}
			tb.writeTo(t.out)
			return nil
		},
	}
	f.add(cmd.Flags())
	return cmd
}

// client reads what the flags name.
func (f *ciFlags) client(t *terminal) (*ci.Client, error) {
	o := ci.ClientOptions{Socket: filepath.Join(t.runDir, ci.SocketName), Server: f.server, Token: os.Getenv(ciTokenEnv)}
	if f.tokenFile != "" {
		b, err := os.ReadFile(f.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("--token-file: %w", err)
		}
		o.Token = strings.TrimSpace(string(b))
	}
	if f.server == "" && (f.ca != "" || f.cert != "" || f.key != "") {
		return nil, badUsage("--ca, --cert and --key are for --server")
	}
	o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		o.TLS.RootCAs = x509.NewCertPool()
		if !o.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca: %s holds no certificate", f.ca)
		}
	}
	if f.cert != "" || f.key != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("--cert and --key: %w", err)
		}
		o.TLS.Certificates = []tls.Certificate{pair}
	}
	return ci.NewClient(o)
}

func (t *terminal) ciScan(ctx context.Context, f *ciFlags, q *ci.Request) error {
	c, err := f.client(t)
	if err != nil {
		return err
	}
	s, err := c.Create(ctx, q)
	if err != nil {
		return err
	}
	if f.wait <= 0 {
		if f.output == "json" {
			return t.writeJSON(s)
		}
		fmt.Fprintln(t.out, clean(s.ID))
		return nil
	}
	return t.ciResult(ctx, c, f, s.ID)
}

// ciResult waits for a scan and turns its verdict into the exit status. A scan that is not done
// has not passed.
func (t *terminal) ciResult(ctx context.Context, c *ci.Client, f *ciFlags, id string) error {
	var r *ci.Result
	var err error
	if f.wait <= 0 {
		r, err = c.Get(ctx, id)
	} else {
		waiting, cancel := context.WithTimeout(ctx, f.wait)
		defer cancel()
		r, err = c.Wait(waiting, id)
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("the scan is not over after %s; fix: belay ci show %s, or a longer --wait", f.wait, clean(id))
		}
	}
	if err != nil {
		return err
	}
	if err := t.writeCI(ctx, c, r, f.output); err != nil {
		return err
	}
	switch {
	case r.State != ci.StateDone:
		return fmt.Errorf("%s: the scan is %s %s", clean(r.Image), r.State, r.Error)
	case r.Verdict == ci.VerdictPass:
		return nil
	case r.Verdict == ci.VerdictFail && r.Counts != nil:
		return statusError{exitFindings, fmt.Errorf("%s: %s with %s", r.Image, count(r.Counts.Failing, "finding", "findings"), r.FailOn)}
	case r.Verdict == ci.VerdictIncomplete:
		return statusError{exitIncomplete, fmt.Errorf("%s: not all of it could be read and matched, so it does not pass; --allow-incomplete lets it", r.Image)}
	}
	return fmt.Errorf("%s: the verdict %q is not known", r.Image, r.Verdict)
}

func (t *terminal) writeCI(ctx context.Context, c *ci.Client, r *ci.Result, f scanFormat) error {
	switch {
	case f == "json":
		return t.writeJSON(r)
	case r.State != ci.StateDone:
		return nil
	case f != "text":
		b, err := c.Format(ctx, r.ID, f.String())
		if err != nil {
			return err
		}
		if f == "junit" {
			// What an agent sends is shown only if a terminal obeys none of it.
			if bytes.ContainsFunc(b, func(r rune) bool {
				return r == unicode.ReplacementChar || r != '\n' && r != '\t' && !unicode.IsPrint(r)
			}) {
				return errors.New("the agent's answer is no JUnit as it writes it")
			}
			_, err = t.out.Write(b)
			return err
		}
		if !json.Valid(b) {
			return errors.New("the agent's answer is no JSON")
		}
		_, err = t.out.Write(cleanJSON(b))
		return err
	}
	fmt.Fprintf(t.out, "%s %s: %s, by records built %s\n", clean(r.Image), clean(orDash(r.Digest)), r.Verdict, t.ago(r.Database))
	tb := t.table("", "SEVERITY", "VULNERABILITY", "PACKAGE", "INSTALLED", "FIXED IN")
	for i := range r.Findings {
		v := &r.Findings[i]
		id := strings.Join(v.IDs[:min(len(v.IDs), 1)], "")
		if v.Exploited {
			id += " exploited"
		}
		id += acceptedText(v.Ignored, v.Known)
		tb.row(plain(v.Severity), plain(id), plain(v.Package), plain(v.Version), plain(orDash(v.Fixed)))
	}
	tb.writeTo(t.out)
	if len(r.Misconfigurations) > 0 {
		tb := t.table("", "SEVERITY", "CONFIGURATION", "WHERE", "")
		for i := range r.Misconfigurations {
			m := &r.Misconfigurations[i]
			tb.row(plain(m.Severity), plain(m.ID+acceptedText(m.Ignored, m.Known)), plain(orDash(m.Where)), plain(m.Text))
		}
		tb.writeTo(t.out)
	}
	if n := r.Counts; n != nil && n.Ignored+n.Known > 0 {
		fmt.Fprintf(t.out, "%d ignored and %d known to the baseline: not counted\n", n.Ignored, n.Known)
	}
	for _, n := range r.IgnoreNotes {
		fmt.Fprintln(t.out, t.colours.paint(yellow, "! "+clean(n)))
	}
	if r.LeftOut > 0 {
		fmt.Fprintf(t.out, "%d more: -o sarif, -o junit or -o cyclonedx have all\n", r.LeftOut)
	}
	for _, n := range r.Notes {
		fmt.Fprintln(t.out, t.colours.paint(yellow, "! "+clean(n)))
	}
	return nil
}
