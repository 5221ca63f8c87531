package audio

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
)

// ahead is the most encoded bytes that are read before they are needed.
const ahead = 64 << 10

// stream is the encoded bytes of a source, buffered, so that decoders may read
// them in small pieces and look at what comes.
type stream struct {
	*bufio.Reader
	src      io.ReadSeekCloser
	size     int64 // -1: not known
	seekable bool
	read     int64 // offset of src behind what is buffered

	mu     sync.Mutex // guards what follows: ffmpeg's input is read by a goroutine of its own
	failed error      // of src, other than its end
}

func newStream(src io.ReadSeekCloser, size int64, seekable bool) *stream {
	s := &stream{src: src, size: size, seekable: seekable}
	s.Reader = bufio.NewReaderSize(countingReader{s}, ahead)
	return s
}

// countingReader is src as the buffer reads it.
type countingReader struct{ s *stream }

func (c countingReader) Read(p []byte) (int, error) {
	n, err := c.s.src.Read(p)
	c.s.read += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		c.s.mu.Lock()
		if c.s.failed == nil { // what follows it is less clear
			c.s.failed = err
		}
		c.s.mu.Unlock()
	}
	return n, err
}

// offset is that of the next byte.
func (s *stream) offset() int64 { return s.read - int64(s.Buffered()) }

// Seek is that of [io.Seeker]; without seekable it can go a buffer's length
// ahead, and nowhere else.
func (s *stream) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += s.offset()
	case io.SeekEnd:
		if s.size < 0 {
			return 0, ErrNotSeekable
		}
		offset += s.size
	}
	if d := offset - s.offset(); d >= 0 && d <= ahead {
		if _, err := s.Discard(int(d)); err != nil && !errors.Is(err, io.EOF) {
			return s.offset(), err
		}
		return offset, nil // past the end is the end
	}
	if !s.seekable {
		return s.offset(), ErrNotSeekable
	}
	at, err := s.src.Seek(offset, io.SeekStart)
	if err != nil {
		return s.offset(), err
	}
	s.read = at
	s.Reset(countingReader{s})
	return at, nil
}

// take reads the next n bytes; it is for sizes that were checked.
func (s *stream) take(n int64) ([]byte, error) {
	if s.size >= 0 && n > s.size-s.offset() {
		return nil, io.ErrUnexpectedEOF // before memory is given to it
	}
	var b bytes.Buffer
	if _, err := io.CopyN(&b, s, n); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return b.Bytes(), nil
}

// rest reads everything to the end, if it is at most limit bytes.
func (s *stream) rest(limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(s, limit+1))
	if failed := s.failure(); failed != nil {
		return nil, failed
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%w: a text of more than %d bytes", ErrUnsupported, limit)
	}
	return b, err
}

// skip goes n bytes ahead, however many.
func (s *stream) skip(n int64) error {
	if n > ahead && s.seekable {
		_, err := s.Seek(n, io.SeekCurrent)
		return err
	}
	_, err := io.CopyN(io.Discard, s, n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (s *stream) Close() error { return s.src.Close() }

// notSeekable makes a reader that can't seek an io.ReadSeekCloser.
type notSeekable struct{ io.ReadCloser }

func (notSeekable) Seek(int64, int) (int64, error) { return 0, ErrNotSeekable }

// cause turns what a decoder says into what the user is told: the transport's
// own error, which decoders tend to hide, else that the medium is damaged. The
// proper end stays io.EOF.
func (s *stream) cause(codec string, err error) error {
	if failed := s.failure(); failed != nil {
		return failed
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, ErrUnsupported), errors.Is(err, ErrDamaged), errors.Is(err, ErrUnreachable):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: the %s data ends in the middle", ErrDamaged, codec)
	}
	return fmt.Errorf("%w: %s: %w", ErrDamaged, codec, err)
}

// failure is the error of the transport, nil if there was none.
func (s *stream) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// forget makes the next read try again.
func (s *stream) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = nil
}
