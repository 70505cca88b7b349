package secretname

import "testing"

func TestVariable(t *testing.T) {
	for _, tt := range []struct {
		name, value string
		want        bool
	}{
		{"DB_PASSWORD", "hunter2", true},
		{"api_key", "x", true},
		{"DB_PASSWORD", "", false},
		{"DB_PASSWORD", "/run/secrets/db", false},
		{"DB_PASSWORD_FILE", "x", false},
		{"GPG_KEY", "E3FF2839C048B25C", false},
		{"PATH", "/bin", false},
		{"X", "ghp_0123456789abcdef", true},
		{"X", "ghp_", false},
	} {
		if got := Variable(tt.name, tt.value); got != tt.want {
			t.Errorf("%s=%s: got %v, want %v", tt.name, tt.value, got, tt.want)
		}
	}
}
