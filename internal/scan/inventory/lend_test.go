package inventory

import "testing"

func FuzzReadLend(f *testing.F) {
	f.Add([]byte("\x00\x01usr/lib"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ReadLend(b)
		if err != nil {
			return
		}
		if again, err := l.Append(nil); err == nil && string(again) != string(b) {
			t.Errorf("%q is %q again", b, again)
		}
	})
}
