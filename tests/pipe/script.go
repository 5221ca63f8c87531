package pipe

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Script reads what a fuzzer has written as choices. At its end every choice is
// the first.
type Script []byte

// Byte is the next byte.
func (s *Script) Byte() byte {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return b
}

// Bytes are the next bytes, as many as the byte before them says, or what is
// left.
func (s *Script) Bytes() []byte {
	n := min(int(s.Byte()), len(*s))
	b := (*s)[:n]
	*s = (*s)[n:]
	return b
}

// Phrases are the frames that one side says in golden files of transcripts:
// the rest of each line that begins with who and two spaces.
func Phrases(pattern, who string) ([]string, error) {
	files, err := filepath.Glob(filepath.FromSlash(pattern))
	if err != nil {
		return nil, err
	}
	var all []string
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(data)) {
			if text, ok := strings.CutPrefix(line, who+"  {"); ok {
				all = append(all, "{"+strings.TrimSpace(text))
			}
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no phrases of %q in %s", who, pattern)
	}
	return all, nil
}

// Pause is a while that some deadline of a session lies within, or none.
func (s *Script) Pause() time.Duration {
	pauses := [...]time.Duration{0, time.Millisecond, 300 * time.Millisecond, 2 * time.Second, 6 * time.Second, 11 * time.Second, 26 * time.Second}
	return pauses[int(s.Byte())%len(pauses)]
}

// Babbler says what a script chooses over the newest of its connections, and
// reads all of them.
type Babbler struct {
	Phrases []string
	Did     []string // what was done, for a log

	reading sync.WaitGroup
	mu      sync.Mutex
	conns   []*Conn
	masked  bool // the newest, which is a client's
}

// Add takes a connection that is past its upgrade; masked is for the client's
// end.
func (b *Babbler) Add(c *Conn, masked bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conns, b.masked = append(b.conns, c), masked
	b.reading.Go(func() { _, _ = io.Copy(io.Discard, c) }) // ends with the connection
}

// Open counts the connections that the other side has not closed.
func (b *Babbler) Open() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.conns {
		if peer := (&Conn{c.l, 1 - c.me}); !peer.IsClosed() {
			n++
		}
	}
	return n
}

// End cuts all connections.
func (b *Babbler) End() {
	b.mu.Lock()
	for _, c := range b.conns {
		c.Reset()
	}
	b.mu.Unlock()
	b.reading.Wait()
}

// Note adds to what was done.
func (b *Babbler) Note(format string, args ...any) {
	b.Did = append(b.Did, fmt.Sprintf(format, args...))
}

// Say says or does one thing: a phrase, one with bytes changed, anything as a
// frame, anything at all, or a fault of the link. It gives up where the peer does
// not read.
func (b *Babbler) Say(s *Script) {
	b.mu.Lock()
	var c *Conn
	masked := b.masked
	if len(b.conns) > 0 {
		c = b.conns[len(b.conns)-1]
	}
	b.mu.Unlock()
	if c == nil {
		return
	}
	write := func(data []byte) {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = c.Write(data)
	}
	phrase := func() []byte { return []byte(b.Phrases[int(s.Byte())%len(b.Phrases)]) }
	frame := func(opcode byte, payload []byte) {
		b.Note("opcode %d: %.200q", opcode, payload)
		write(Frame(opcode, payload, masked))
	}
	switch s.Byte() % 12 {
	case 0, 1, 2:
		frame(1, phrase())
	case 3, 4:
		text := phrase()
		for at := 0; len(*s) > 0; {
			at += int(s.Byte())
			if at >= len(text) || at == 0 {
				break
			}
			text[at] = s.Byte()
		}
		frame(1, text)
	case 5:
		frame(1, s.Bytes())
	case 6:
		frame(2, s.Bytes())
	case 7:
		frame(s.Byte(), s.Bytes())
	case 8:
		raw := s.Bytes()
		b.Note("raw %q", raw)
		write(raw)
	case 9:
		text := phrase()
		half := Frame(1, text, masked)
		b.Note("half of %s", text)
		write(half[:len(half)*int(s.Byte())/256])
	case 10:
		fault := s.Byte() % 5
		b.Note("fault %d", fault)
		[]func(){c.Reset, c.Freeze, c.Thaw, func() { _ = c.Close() }, c.Cut}[fault]()
	default:
		text, n := phrase(), int(s.Byte())
		b.Note("%d times %s", n, text)
		for range n {
			write(Frame(1, text, masked))
		}
	}
}
