package policy

// validate checks what one field cannot say alone. It runs only on a document whose
// every field was read, so that its errors are never the echo of another.
func (d *decoder) validate(p *RuntimePolicy) {
	s := &p.Spec
	if len(p.settings()) == 0 && s.OnError == Unset &&
		(s.Exec == nil || len(s.Exec.Allow)+len(s.Exec.Deny)+len(s.Exec.RuntimeHelpers) == 0) &&
		(s.Files == nil || len(s.Files.rules()) == 0) && !s.Network.sets() {
		d.failAt("spec", "set a rule below exec, ssh, files, privileges, network, host or guard", "the policy sets no rule")
	}
	if s.Loosen && !s.Selector.trusted() {
		d.failAt("spec.loosen", "select by imageDigest or by a label that starts with "+LabelPrefix,
			"loosen: true needs a selector that a client cannot choose: anyone can set an image tag, a name or a label")
	}
	// The two below make Belay deny less. Were they legal with any selector, a client
	// could loosen the floor by choosing a label or a tag.
	trusted := s.Loosen || s.Selector.empty()
	const where = "move it to a policy without a selector, or add loosen: true and select by imageDigest or a " +
		LabelPrefix + " label"
	if s.OnError == Allow && !trusted {
		d.failAt("spec.onError", where, "onError: allow loosens, and this selector may only tighten")
	}
	d.validatePhase(s)
	if s.Exec != nil {
		d.validateExec(s)
		if len(s.Exec.RuntimeHelpers) > 0 && !trusted {
			d.failAt("spec.exec.runtimeHelpers", where, "runtimeHelpers loosens drift, and this selector may only tighten")
		}
	}
	if s.SSH != nil && s.SSH.Client == To {
		if msg, fix := checkPortCount(s.SSH.To); msg != "" {
			d.failAt("spec.ssh.client.to", fix, "spec.ssh.client.to: %s", msg)
		}
	}
	d.validateNetwork(p)
	if s.Guard != nil && s.Guard.BPF == Allow && !s.Loosen {
		d.failAt("spec.guard.bpf", "delete it, or add loosen: true and select by imageDigest or a "+LabelPrefix+" label",
			"guard.bpf: allow has no effect: the built-in rule denies, and deny wins")
	}
}

// validateExec checks options against their rules. A loosening policy may set an
// option alone: it then changes that option of the rule that others set.
func (d *decoder) validateExec(s *Spec) {
	e := s.Exec
	option := func(name string, v Value, rule string, of Value) {
		if v == Unset || of != Unset && of != Allow || s.Loosen && of == Unset {
			return
		}
		d.failAt("spec.exec."+name, "set "+rule+": deny, or delete "+name,
			"%s: %s has no effect: it is an option of %s, which this policy does not deny", name, v, rule)
	}
	option("nested", e.Nested, "asRoot", e.AsRoot)
	option("volumes", e.Volumes, "drift", e.Drift)
	option("metadataOnly", e.MetadataOnly, "drift", e.Drift)
	switch {
	case e.AsRoot == DenyAfterStart && e.StartFor == 0:
		e.StartFor = DefaultStartFor
	case e.AsRoot != DenyAfterStart && e.StartFor != 0:
		d.failAt("spec.exec.startFor", "write asRoot: denyAfterStart, or delete startFor",
			"startFor has no effect: it is an option of asRoot: denyAfterStart")
	}
	// Two spellings of one file (usrmerge) are no contradiction worth an error, but the
	// same pattern on both lists of one policy is: it can never run.
	denied := make(map[Pattern]bool, len(e.Deny))
	for _, p := range e.Deny {
		denied[p] = true
	}
	for _, p := range e.Allow {
		if denied[p] {
			d.failAt("spec.exec.allow", "delete it from one of the two",
				"%s is in exec.allow and in exec.deny: deny wins", quote(p.String()))
		}
	}
}
