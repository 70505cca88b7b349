package enforce

//go:generate go run ../../tools/codegen -codes ../../bpf/codes.def -go codes_gen.go -doc ../../docs/failure-codes.md

// Code is one internal failure of the kernel side: a line of bpf/codes.def.
type Code struct {
	Number  int
	Name    string // counter name, lower case
	Verdict string // what is decided then: fail, floor, report or deny
	Meaning string
}

// Codes returns all codes in the order of their numbers.
func Codes() []Code { return append([]Code(nil), codes...) }
