package vulndb

import (
	"reflect"
	"testing"
)

// Since when is not known: then it is always, rather than never.
func TestUnreadableIntroduced(t *testing.T) {
	got, bad := sortEvents("Debian:12", []map[string]string{{"introduced": "x:1"}, {"fixed": "2.0"}})
	want := []event{{eventIntroduced, []byte("0")}, {eventFixed, []byte("2.0")}}
	if bad != 1 || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %d unreadable, want %v, 1", got, bad, want)
	}
}
