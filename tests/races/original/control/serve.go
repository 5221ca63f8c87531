// Package control lets one program drive another over its standard streams:
// one JSON object per line, requests in, answers out, so that a program in any
// language can be driven.
//
//	{"id":1,"do":"connect","args":{"url":"ws://127.0.0.1:8928/sendspin"}}
//	{"id":1,"result":{}}
//	{"id":2,"error":"unknown verb \"x\""}
//
// Requests are carried out concurrently and answered when they are done. A
// driven program ends when its input does.
package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// lineLimit is how long a request or an answer may be; a count of 1,000
// sockets takes 200 KiB.
const lineLimit = 16 << 20

type request struct {
	ID   int             `json:"id"`
	Do   string          `json:"do"`
	Args json.RawMessage `json:"args,omitempty"`
}

type answer struct {
	ID     int             `json:"id"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// Verb carries out one kind of request. Its result is encoded as JSON.
type Verb func(args json.RawMessage) (result any, err error)

// On makes a verb of a function that takes its arguments decoded.
func On[A any](do func(A) (any, error)) Verb {
	return func(raw json.RawMessage) (any, error) {
		var args A
		if len(raw) > 0 {
			if err := json.Unmarshal(raw, &args); err != nil {
				return nil, fmt.Errorf("arguments: %w", err)
			}
		}
		return do(args)
	}
}

// Serve carries out requests until in ends, then waits for those under way.
func Serve(in io.Reader, out io.Writer, verbs map[string]Verb) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	var mu sync.Mutex // guards out
	reply := func(id int, result any, err error) {
		a := answer{ID: id}
		if err == nil {
			a.Result, err = json.Marshal(result)
		}
		if err != nil {
			a.Error = err.Error()
		}
		line, _ := json.Marshal(a) // a number and two texts
		mu.Lock()
		defer mu.Unlock()
		_, _ = out.Write(append(line, '\n')) // who asked is gone: in ends, too
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, lineLimit)
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return fmt.Errorf("control: request %.80q: %w", lines.Text(), err)
		}
		verb := verbs[r.Do]
		if verb == nil {
			reply(r.ID, nil, fmt.Errorf("unknown verb %q", r.Do))
			continue
		}
		wg.Go(func() { // ends with the verb; awaited above
			result, err := verb(r.Args)
			reply(r.ID, result, err)
		})
	}
	if err := lines.Err(); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		return fmt.Errorf("control: %w", err)
	}
	return nil
}
