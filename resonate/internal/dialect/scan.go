package dialect

import (
	"bytes"
	"strconv"

	"resonatebridge/timesync"
)

// scanClientTime reads a client/time of the usual shape without allocating;
// it is the one message that comes often. ok is false for every other frame,
// also for unusual spellings of client/time: the general decoder takes those.
func scanClientTime(data []byte) (t timesync.Micros, ok bool) {
	s := scanner{rest: data}
	var typ, payload bool
	s.expect('{')
	for range 2 {
		switch {
		case !typ && s.skip(`"type"`):
			typ = s.expect(':') && s.skip(`"client/time"`)
		case !payload && s.skip(`"payload"`):
			payload = s.expect(':') && s.expect('{') && s.skip(`"client_transmitted"`) && s.expect(':')
			t = timesync.Micros(s.integer())
			s.expect('}')
		default:
			return 0, false
		}
		if !typ || !payload {
			s.expect(',')
		}
	}
	s.expect('}')
	s.space()
	return t, typ && payload && !s.failed && len(s.rest) == 0
}

// scanner takes tokens from the front of rest. Once failed it stays failed.
type scanner struct {
	rest   []byte
	failed bool
}

func (s *scanner) space() { s.rest = bytes.TrimLeft(s.rest, " \t\r\n") }

// skip takes the token if it comes next.
func (s *scanner) skip(token string) bool {
	s.space()
	if s.failed || len(s.rest) < len(token) || string(s.rest[:len(token)]) != token {
		return false
	}
	s.rest = s.rest[len(token):]
	return true
}

// expect takes c or fails.
func (s *scanner) expect(c byte) bool {
	s.space()
	if s.failed || len(s.rest) == 0 || s.rest[0] != c {
		s.failed = true
		return false
	}
	s.rest = s.rest[1:]
	return true
}

// integer takes a JSON integer or fails.
func (s *scanner) integer() int64 {
	s.space()
	n := 0
	for n < len(s.rest) && (s.rest[n] == '-' || s.rest[n] >= '0' && s.rest[n] <= '9') {
		n++
	}
	digits := bytes.TrimPrefix(s.rest[:n], []byte("-"))
	v, err := strconv.ParseInt(string(s.rest[:n]), 10, 64)
	if err != nil || len(digits) > 1 && digits[0] == '0' {
		s.failed = true
		return 0
	}
	s.rest = s.rest[n:]
	return v
}
