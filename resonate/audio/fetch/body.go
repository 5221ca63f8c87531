package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// retries is how often in a row a broken transfer is taken up again without a
// single new byte.
const retries = 4

var (
	errChanged  = errors.New("it changed while it was read")
	errNoRanges = errors.New("the server gives no parts of it")
	errClosed   = errors.New("closed")
)

// Body is what a server sends. One goroutine at a time reads and seeks; any may
// close it.
type Body struct {
	Header http.Header // of the first response
	URL    *url.URL    // after all redirects
	Size   int64       // bytes in all; -1: not known, or endless

	client *Client
	asked  *url.URL
	header http.Header     // of each request
	life   context.Context //nolint:containedctx // of the body: it makes requests of its own when a transfer breaks off
	end    context.CancelCauseFunc

	body   io.ReadCloser // nil: to be asked for again at off
	off    int64         // of the next byte that Read returns
	fails  int           // in a row
	ranges bool
	tag    string // for If-Range
}

// Seekable reports whether Seek can work.
func (b *Body) Seekable() bool { return b.Size >= 0 && b.ranges }

// request asks for the bytes from off on. ctx bounds the wait for the header.
func (b *Body) request(ctx context.Context, off int64) (*http.Response, error) {
	// The request lives as long as the body, but its answer has to come soon.
	life, end := context.WithCancelCause(b.life)
	late := time.AfterFunc(b.client.opts.Answer, func() { end(errNoAnswer(b.client.opts.Answer)) })
	stop := context.AfterFunc(ctx, func() { end(context.Cause(ctx)) })
	req, err := http.NewRequestWithContext(life, http.MethodGet, b.asked.String(), nil)
	if err != nil {
		end(err)
		return nil, classify(err)
	}
	for k, v := range b.header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", b.client.opts.UserAgent)
	if off > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", off))
		if b.tag != "" {
			req.Header.Set("If-Range", b.tag)
		}
	}
	resp, err := b.client.http.Do(req)
	if inTime, wanted := late.Stop(), stop(); !inTime || !wanted {
		if err == nil {
			resp.Body.Close()
		}
		err = context.Cause(life)
	}
	if err != nil {
		end(err)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, classify(err)
	}
	resp.Body = &cancelled{resp.Body, end}
	if resp.StatusCode != http.StatusOK && (resp.StatusCode != http.StatusPartialContent || off == 0) {
		resp.Body.Close()
		return nil, fmt.Errorf("%w: the server says %.60q", ErrUnreachable, resp.Status)
	}
	return resp, nil
}

func errNoAnswer(after time.Duration) error {
	return fmt.Errorf("%w: no answer within %v", ErrUnreachable, after)
}

// cancelled is a response's body whose request ends with it.
type cancelled struct {
	io.ReadCloser
	end context.CancelCauseFunc
}

func (c *cancelled) Close() error {
	c.end(errClosed)
	return c.ReadCloser.Close()
}

// open asks for the first time.
func (b *Body) open(ctx context.Context) error {
	resp, err := b.request(ctx, 0) //nolint:bodyclose // it becomes b.body
	if err != nil {
		return err
	}
	b.Header, b.URL, b.Size, b.body = resp.Header, resp.Request.URL, resp.ContentLength, resp.Body
	b.ranges = strings.EqualFold(resp.Header.Get("Accept-Ranges"), "bytes")
	if b.tag = resp.Header.Get("ETag"); b.tag == "" || strings.HasPrefix(b.tag, "W/") {
		b.tag = resp.Header.Get("Last-Modified")
	}
	return nil
}

// Read waits for bytes. A body of known length that breaks off is taken up
// again; other errors are ErrUnreachable.
func (b *Body) Read(p []byte) (int, error) {
	for {
		if b.off == b.Size {
			return 0, io.EOF
		}
		if b.life.Err() != nil {
			return 0, context.Cause(b.life)
		}
		n, err := b.read(p)
		b.off += int64(n)
		if n > 0 {
			b.fails = 0
			return n, nil
		}
		if b.life.Err() != nil {
			return 0, context.Cause(b.life)
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, io.EOF) && b.Size < 0:
			return 0, io.EOF
		case b.Size < 0, errors.Is(err, errChanged), errors.Is(err, errNoRanges), b.fails == retries:
			return 0, classify(err)
		}
		b.drop()
		b.client.opts.Log.LogAttrs(b.life, slog.LevelDebug, "transfer broke off, taken up again",
			slog.String("url", b.asked.Redacted()), slog.Int64("at", b.off), slog.Any("err", err))
		if err := b.pause(250 * time.Millisecond << b.fails); err != nil {
			return 0, err
		}
		b.fails++
	}
}

// read reads from the response there is, or asks for one.
func (b *Body) read(p []byte) (int, error) {
	if b.body == nil {
		if err := b.resume(); err != nil {
			return 0, err
		}
	}
	body := b.body
	watch := time.AfterFunc(b.client.opts.Stall, func() {
		if c, ok := body.(*cancelled); ok {
			c.end(errStalled)
		}
	})
	n, err := body.Read(p)
	if !watch.Stop() && err != nil {
		err = errStalled
	}
	return n, err
}

// resume asks for the rest from off on.
func (b *Body) resume() error {
	resp, err := b.request(b.life, b.off)
	if err != nil {
		return err
	}
	skip := b.off
	if resp.StatusCode == http.StatusPartialContent {
		first, size, ok := contentRange(resp.Header.Get("Content-Range"))
		if !ok || first != b.off || size >= 0 && size != b.Size {
			resp.Body.Close()
			return errChanged
		}
		skip = 0
	} else if resp.ContentLength != b.Size || b.ranges && b.off > 0 {
		// With ranges the whole means that the condition in If-Range failed.
		resp.Body.Close()
		return errChanged
	}
	b.body = resp.Body
	if skip > 0 { // no ranges: the same again, from the beginning
		if _, err := io.CopyN(io.Discard, &stalling{b}, skip); err != nil {
			b.drop()
			return err
		}
	}
	return nil
}

// stalling reads the response there is under the watch of Body.read.
type stalling struct{ b *Body }

func (s *stalling) Read(p []byte) (int, error) { return s.b.read(p) }

// contentRange parses "bytes 100-199/200"; a size of "*" is -1.
func contentRange(text string) (first, size int64, ok bool) {
	text, ok = strings.CutPrefix(text, "bytes ")
	span, all, ok2 := strings.Cut(text, "/")
	from, _, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, false
	}
	first, err := strconv.ParseInt(from, 10, 64)
	if err != nil {
		return 0, 0, false
	}
	if all == "*" {
		return first, -1, true
	}
	size, err = strconv.ParseInt(all, 10, 64)
	return first, size, err == nil
}

func (b *Body) pause(d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-b.life.Done():
		return context.Cause(b.life)
	}
}

// Seek sets the offset of the next Read, for whence io.SeekStart and the others
// of [io.Seeker]. It asks for nothing yet.
func (b *Body) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += b.off
	case io.SeekEnd:
		offset += b.Size
	}
	if offset == b.off {
		return offset, nil
	}
	if !b.Seekable() {
		return b.off, errNoRanges
	}
	if offset < 0 {
		return b.off, fmt.Errorf("fetch: seek to %d", offset)
	}
	b.drop()
	b.off, b.fails = min(offset, b.Size), 0
	return b.off, nil
}

func (b *Body) drop() {
	if b.body != nil {
		b.body.Close()
		b.body = nil
	}
}

// Close ends the transfer; a Read that waits returns.
func (b *Body) Close() error {
	b.end(errClosed)
	return nil
}

// all reads everything, if it is at most limit bytes.
func (b *Body) all(limit int64) ([]byte, error) {
	if b.Size > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are taken", ErrTooLarge, b.Size, limit)
	}
	data, err := io.ReadAll(io.LimitReader(b, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
	}
	return data, nil
}
