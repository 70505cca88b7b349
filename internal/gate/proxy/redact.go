package proxy

import (
	"bytes"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// redacted are the answers that show the environment of containers, and what takes the
// values out of them.
var redacted = map[string]filter{
	"container.inspect": redact, "image.inspect": redact, "service.inspect": redact, "service.list": redact,
	"task.inspect": redact, "task.list": redact, "image.history": redactHistory,
}

// redact takes values out of every list of environment variables, wherever it is.
func redact(x *exchange, dst, body []byte) ([]byte, error) {
	return x.redactWith(dst, body, x.redactIn)
}

// redactHistory takes them out of the instructions that an image was made by.
func redactHistory(x *exchange, dst, body []byte) ([]byte, error) {
	return x.redactWith(dst, body, x.redactInstructions)
}

// redactCost is what an answer becomes in memory while its values are any, in its own size: a list of
// short texts.
const redactCost = 16

func (x *exchange) redactWith(dst, body []byte, in func(v any)) ([]byte, error) {
	if len(body) > freeAnswer && !x.growShown(redactCost*len(body)) {
		return nil, errNoRoom
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	in(v)
	out, err := json.Marshal(v)
	return append(append(dst, out...), '\n'), err
}

const redactedValue = "(redacted)"

func (x *exchange) redactIn(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			x.redactIn(e)
		}
	case map[string]any:
		for k, e := range v {
			list, ok := e.([]any)
			if k != "Env" || !ok {
				x.redactIn(e)
				continue
			}
			for i, pair := range list {
				s, _ := pair.(string)
				if name, _, ok := strings.Cut(s, "="); ok && x.dec.Obligations.Redacts(name) {
					list[i] = name + "=" + redactedValue
				}
			}
		}
	}
}

// assignment is a variable in the text of an instruction: "ENV A=b", "RUN |1 A=b /bin/sh".
var assignment = regexp.MustCompile(`([^\s=|"']+)=`)

// redactInstructions cuts each instruction at the first variable whose value must not be
// shown: where the value ends nobody can tell, for quotes are gone.
func (x *exchange) redactInstructions(v any) {
	list, _ := v.([]any)
	for _, e := range list {
		layer, _ := e.(map[string]any)
		text, _ := layer["CreatedBy"].(string)
		for _, at := range assignment.FindAllStringSubmatchIndex(text, -1) {
			if x.dec.Obligations.Redacts(text[at[2]:at[3]]) {
				layer["CreatedBy"] = text[:at[1]] + redactedValue
				break
			}
		}
	}
}

// psArguments are those of ps(1) that show no environment in any of its dialects. It takes a
// word for one of BSD's, whose e shows it, where it cannot be one of UNIX's.
var psArguments = []string{"", "-e", "-f", "-ef", "-eF", "-l", "-el", "ax", "aux", "auxf", "auxw", "auxww", "axf"}

// psColumns are the columns that a caller may ask for instead; environ is one of ps(1) too.
var psColumns = []string{
	"pid", "ppid", "pgid", "sid", "lwp", "nlwp", "user", "uid", "ruser", "euser", "group", "gid", "comm", "cmd", "command", "args",
	"time", "etime", "etimes", "stime", "start", "lstart", "stat", "s", "state", "wchan", "tty", "tt", "pcpu", "%cpu", "c", "pmem", "%mem",
	"rss", "vsz", "sz", "ni", "nice", "pri", "psr", "cls", "f",
}

// hidesEnvironment refuses to have processes listed with their environment, where its values
// must not be shown.
func (x *exchange) hidesEnvironment() *refusal {
	if x.req.Call.Action != "container.top" || len(x.dec.Obligations.RedactEnv) == 0 || plainPS(x.req.Query.Get("ps_args")) {
		return nil
	}
	return &refusal{status: http.StatusForbidden, cause: "redact_env",
		msg: "belay: the policy hides environment variables, which ps can be asked for: use docker top with -ef, aux or -o COLUMNS"}
}

func plainPS(args string) bool {
	words := strings.Fields(args)
	if len(words) == 2 && slices.Contains([]string{"-o", "-eo", "axo"}, words[0]) {
		for column := range strings.SplitSeq(words[1], ",") {
			if !slices.Contains(psColumns, column) {
				return false
			}
		}
		return true
	}
	return slices.Contains(psArguments, strings.Join(words, " "))
}
