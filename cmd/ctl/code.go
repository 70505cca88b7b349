package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/term"
	"rsc.io/qr"

	"github.com/belay-project/belay/internal/control"
)

// maxCodeBytes bounds what is read for a code.
const maxCodeBytes = 256

// factorClient returns a client of the agent's factor socket. It does not connect yet.
func (t *terminal) factorClient() *control.FactorClient {
	return control.NewFactorClient(filepath.Join(t.runDir, control.FactorSocketName))
}

// readCode reads a code: without echo from a terminal, else the first line of the input. It
// is never an argument, which every user of the host could see.
func (t *terminal) readCode(ctx context.Context, prompt string) (string, error) {
	var text string
	var err error
	if f, ok := t.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		text, err = t.readHidden(ctx, f, prompt)
	} else {
		text, err = bufio.NewReader(io.LimitReader(t.in, maxCodeBytes)).ReadString('\n')
		if errors.Is(err, io.EOF) && text != "" {
			err = nil
		}
	}
	text = strings.TrimSpace(text)
	switch {
	case errors.Is(err, io.EOF), err == nil && text == "":
		return "", errors.New("no code was given: type it at a terminal, or write it to standard input")
	case err != nil:
		return "", fmt.Errorf("read the code: %w", err)
	}
	return text, nil
}

// readHidden reads a line without echo. An interrupt gives the terminal back as it was.
func (t *terminal) readHidden(ctx context.Context, f *os.File, prompt string) (string, error) {
	fd := int(f.Fd())
	was, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	fmt.Fprint(t.err, prompt)
	type line struct {
		text []byte
		err  error
	}
	read := make(chan line, 1)
	go func() { // after an interrupt it ends with the program
		b, err := term.ReadPassword(fd)
		read <- line{b, err}
	}()
	defer fmt.Fprintln(t.err)
	select {
	case l := <-read:
		return string(l.text), l.err
	case <-ctx.Done():
		return "", errors.Join(errors.New("interrupted"), term.Restore(fd, was))
	}
}

// terminal tells whether text is written to a terminal that shows colours.
func (p painter) terminal() bool { return bool(p) }

// quiet is the margin that scanners need: ISO/IEC 18004 has four modules; two do at a screen.
const quiet = 2

// qrCode draws text as a QR code of half blocks, black on white whatever the terminal's
// colours are.
func qrCode(text string) (string, error) {
	c, err := qr.Encode(text, qr.L)
	if err != nil {
		return "", fmt.Errorf("draw the QR code: %w", err)
	}
	var b strings.Builder
	for y := -quiet; y < c.Size+quiet; y += 2 {
		b.WriteString("\x1b[30;107m")
		for x := -quiet; x < c.Size+quiet; x++ {
			// Outside of the code Black is false: the margin.
			switch up, down := c.Black(x, y), c.Black(x, y+1); {
			case up && down:
				b.WriteRune('█')
			case up:
				b.WriteRune('▀')
			case down:
				b.WriteRune('▄')
			default:
				b.WriteByte(' ')
			}
		}
		b.WriteString("\x1b[0m\n")
	}
	return b.String(), nil
}
