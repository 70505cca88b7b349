package policy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/apicall"
)

// Every AccessPolicy that ships has requests that it must deny and such that it must
// let pass, in policies/tests under its own name.
func TestShippedAccessPolicies(t *testing.T) {
	files, err := filepath.Glob("../../policies/access-*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("got no shipped AccessPolicies, %v", err)
	}
	for _, file := range files {
		base := filepath.Base(file)
		t.Run(base, func(t *testing.T) {
			own, err := ParseFiles(file)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(own.AccessPolicies()); n != 1 || own.Len() != 1 {
				t.Fatalf("got %d policies, want one AccessPolicy", own.Len())
			}
			if name := own.AccessPolicies()[0].Name + ".yaml"; name != base {
				t.Errorf("the policy in %s is called %s", base, name)
			}
			src, err := os.ReadFile("../../policies/tests/" + base)
			if err != nil {
				t.Fatal("add what this policy must deny and what it must let pass: ", err)
			}
			tests, _, err := ParseTests(base, src)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]int{}
			for _, test := range tests {
				var with []string
				for _, p := range test.Policies {
					with = append(with, filepath.Join("../../policies/tests", p))
				}
				set, err := ParseFiles(with...)
				if err != nil {
					t.Fatal(err)
				}
				for i := range test.Requests {
					r := &test.Requests[i]
					d := set.Access().Decide(&r.Call, at)
					if r.Want == nil {
						t.Errorf("%s: nothing is expected", r.Name)
					} else if differs := r.Want.Differs(&d); len(differs) > 0 {
						t.Errorf("%s: %s (%s)", r.Name, strings.Join(differs, "; "), d.Reason)
					}
					seen[d.Word()]++
				}
			}
			if seen[ExpectAllowed] == 0 || seen[ExpectDenied] == 0 {
				t.Errorf("got %v, want denied and allowed requests", seen)
			}
		})
	}
}

// The floor holds whatever else is allowed: each of these is refused to root.
func TestShippedFloorHoldsForAdmins(t *testing.T) {
	set, err := LoadDir("../../policies")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range checkCases {
		if tt.on != "" {
			continue
		}
		name, _, _ := strings.Cut(tt.check, ":")
		switch name {
		case "notPrivileged", "notRoot", "noSocketMounts", "systemPaths", "seccomp", "selinux", "noReservedLabels", "cgroupParent":
		default:
			continue
		}
		for _, src := range tt.fail {
			if strings.Contains(tt.check, "also") || strings.Contains(tt.check, "numeric") && strings.Contains(src, "node") {
				continue // of a parameter that the floor does not set
			}
			f := factsFrom(t, src)
			if name != "notRoot" {
				f.User = "1000"
			}
			call := &apicall.Call{Subject: root, Action: "container.create", Facts: *f}
			if d := set.Access().Decide(call, at); d.Allowed {
				t.Errorf("%s: root may create %s", tt.check, src)
			}
		}
	}
}
