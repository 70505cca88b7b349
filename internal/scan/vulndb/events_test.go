package vulndb

import "testing"

// Since when is not known: then it is always, rather than never.
func TestUnreadableIntroduced(t *testing.T) {
	got, bad := sortEvents("Debian:12", []map[string]string{{"introduced": "x:1"}, {"fixed": "2.0"}})
	want := []event{{eventIntroduced, "0"}, {eventFixed, "2.0"}}
	if bad != 1 || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %v, %d unreadable, want %v, 1", got, bad, want)
	}
}
