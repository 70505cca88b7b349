package vulndb

import (
	"context"
	"os"
	"testing"
)

// fullContext is that of the database of all real feeds, which tests share.
var fullContext = context.Background()

// realDir holds the database of all real feeds, if a test has built it.
var realDir string

func TestMain(m *testing.M) {
	code := m.Run()
	if realDir != "" {
		os.RemoveAll(realDir)
	}
	os.Exit(code)
}
