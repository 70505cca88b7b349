//go:build !cgo

package sandbox

const cgoBuilt = false
