#!/bin/bash
# count.sh LABEL…: pass `go test -v` output on in short form, print the counts and the tests that
# took longest, and fail if a test failed or none ran.
label=$*
awk -v label="$label" '
	/^ *--- PASS/ { pass++ }
	/^--- (PASS|FAIL)/ { t = substr($4, 2) + 0; if (t >= 1) took[$3] = t }
	/^ *--- FAIL/ { fail++ }
	/^ *--- SKIP/ { skip++; skipped = skipped "\n    " $3 }
	/^(PASS|ok)/ { done = 1 }
	/^FAIL|^panic:|^fatal/ { bad = 1 }
	/starts, none ran|tries, none passed|agents killed: none ran|after [0-9]+ containers|recorded [0-9]+, lost|^(streams|soak): / { sub(/^ *[a-z_]*test.go:[0-9]*: /, ""); notes = notes "\n" $0 }
	{ lines[NR] = $0 }
	END {
		if (fail || bad || !pass || !done) for (i = 1; i <= NR; i++) print lines[i]
		printf "%s: %d passed, %d failed, %d skipped%s%s\n", label, pass, fail, skip, skipped, notes
		for (i = 1; i <= 12; i++) {
			max = 0
			for (name in took) if (took[name] > max) { max = took[name]; first = name }
			if (!max) break
			longest = longest sprintf("%s %s %.0f s", i > 1 ? "," : "", first, max)
			delete took[first]
		}
		if (longest) printf "%s: longest:%s\n", label, longest
		exit (fail || bad || !pass || !done)
	}'
