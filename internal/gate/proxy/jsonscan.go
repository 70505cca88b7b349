package proxy

import (
	"bytes"
	"errors"
)

// errJSON is returned for an answer of the daemon that is not the JSON it should be.
var errJSON = errors.New("the daemon's JSON has another form")

// skipSpace returns the index of the next byte that is no space.
func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// skipString returns the index after the string that begins at i.
func skipString(b []byte, i int) (int, error) {
	for i++; i < len(b); {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return 0, errJSON
		}
		i += n + 1
		// A quote is the end unless an odd number of backslashes is before it.
		slashes := 0
		for j := i - 2; j >= 0 && b[j] == '\\'; j-- {
			slashes++
		}
		if slashes%2 == 0 {
			return i, nil
		}
	}
	return 0, errJSON
}

// skipValue returns the index after the value that begins at i. It finds the end and
// does not judge what is between: the bytes are the daemon's.
func skipValue(b []byte, i int) (int, error) {
	if i >= len(b) {
		return 0, errJSON
	}
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		depth := 0
		for i < len(b) {
			switch b[i] {
			case '"':
				var err error
				if i, err = skipString(b, i); err != nil {
					return 0, err
				}
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1, nil
				}
			}
			i++
		}
		return 0, errJSON
	}
	start := i
	for i < len(b) && b[i] != ',' && b[i] != '}' && b[i] != ']' && b[i] > ' ' {
		i++
	}
	if i == start {
		return 0, errJSON
	}
	return i, nil
}

// eachElement calls f with each element of the array that b is.
func eachElement(b []byte, f func(element []byte) error) error {
	i := skipSpace(b, 0)
	if i >= len(b) || b[i] != '[' {
		return errJSON
	}
	if i = skipSpace(b, i+1); i < len(b) && b[i] == ']' {
		return nil
	}
	for {
		end, err := skipValue(b, i)
		if err != nil {
			return err
		}
		if err := f(b[i:end]); err != nil {
			return err
		}
		i = skipSpace(b, end)
		if i >= len(b) {
			return errJSON
		}
		switch b[i] {
		case ',':
			i = skipSpace(b, i+1)
		case ']':
			return nil
		default:
			return errJSON
		}
	}
}

// eachMember calls f with each name, quotes included, and value of the object that b is.
func eachMember(b []byte, f func(name, value []byte) error) error {
	_, err := members(b, f)
	return err
}

// members is eachMember for an object at the beginning of b. It returns its length.
func members(b []byte, f func(name, value []byte) error) (int, error) {
	i := skipSpace(b, 0)
	if i >= len(b) || b[i] != '{' {
		return 0, errJSON
	}
	if i = skipSpace(b, i+1); i < len(b) && b[i] == '}' {
		return i + 1, nil
	}
	for {
		if i >= len(b) || b[i] != '"' {
			return 0, errJSON
		}
		nameEnd, err := skipString(b, i)
		if err != nil {
			return 0, err
		}
		name := b[i:nameEnd]
		if i = skipSpace(b, nameEnd); i >= len(b) || b[i] != ':' {
			return 0, errJSON
		}
		i = skipSpace(b, i+1)
		end, err := skipValue(b, i)
		if err != nil {
			return 0, err
		}
		if err := f(name, b[i:end]); err != nil {
			return 0, err
		}
		i = skipSpace(b, end)
		if i >= len(b) {
			return 0, errJSON
		}
		switch b[i] {
		case ',':
			i = skipSpace(b, i+1)
		case '}':
			return i + 1, nil
		default:
			return 0, errJSON
		}
	}
}

// eachObject calls f with what begins with each object of the array that b is; f returns
// the object's length.
func eachObject(b []byte, f func(rest []byte) (int, error)) error {
	i := skipSpace(b, 0)
	if i >= len(b) || b[i] != '[' {
		return errJSON
	}
	if i = skipSpace(b, i+1); i < len(b) && b[i] == ']' {
		return nil
	}
	for i < len(b) {
		n, err := f(b[i:])
		if err != nil {
			return err
		}
		if i = skipSpace(b, i+n); i >= len(b) {
			break
		}
		switch b[i] {
		case ',':
			i = skipSpace(b, i+1)
		case ']':
			return nil
		default:
			return errJSON
		}
	}
	return errJSON
}
