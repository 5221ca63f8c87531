package stream

import "sync"

// framed keeps what writers made of a chunk, so that all members of one dialect
// share one frame as well.
type framed struct {
	mu   sync.Mutex
	made []frame
}

type frame struct {
	kind  byte
	frame any
}

// Framed returns the frame of kind that build made for the first who asked.
// It is safe for concurrent use.
func (c *Chunk) Framed(kind byte, build func() any) any {
	c.framed.mu.Lock()
	defer c.framed.mu.Unlock()
	for _, f := range c.framed.made {
		if f.kind == kind {
			return f.frame
		}
	}
	made := build()
	c.framed.made = append(c.framed.made, frame{kind, made})
	return made
}
