package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/tests/pipe"
)

// serve answers with h over pipes, and returns a client of it.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	l := pipe.NewListener()
	s := &http.Server{Handler: h}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	return New(Options{Dial: l.DialContext})
}

func TestAddresses(t *testing.T) {
	for _, tc := range []struct {
		addr string
		ok   bool
	}{
		{"127.0.0.1:80", true},
		{"[::1]:80", true},
		{"192.168.1.2:80", true},
		{"10.0.0.1:80", true},
		{"[fd12:3456::1]:80", true},
		{"93.184.216.34:443", true},
		{"169.254.169.254:80", false},
		{"169.254.0.1:80", false},
		{"[fe80::1%eth0]:80", false},
		{"[::ffff:169.254.169.254]:80", false},
		{"[64:ff9b::a9fe:a9fe]:80", false},
		{"[fd00:ec2::254]:80", false},
		{"100.100.100.200:80", false},
		{"192.0.0.192:80", false},
		{"168.63.129.16:80", false},
		{"0.0.0.0:80", false},
		{"[::]:80", false},
		{"224.0.0.251:80", false},
		{"[ff02::fb]:80", false},
		{"nonsense", false},
	} {
		err := checkAddress(tc.addr)
		if (err == nil) != tc.ok || err != nil && !errors.Is(err, ErrRefused) {
			t.Errorf("%s: got %v, want it allowed: %v", tc.addr, err, tc.ok)
		}
	}
}

func TestRefusedBeforeAnythingIsSent(t *testing.T) {
	c := New(Options{})
	for _, tc := range []struct{ url, say string }{
		{"ftp://host/x", "not http"},
		{"file:///etc/passwd", "not http"},
		{"gopher://x", "not http"},
		{"http:///x", "no host"},
		{"http://", "no host"},
		{"", "not http"},
		{"http://a\x7f/", "invalid"},
		{"http://host/" + strings.Repeat("x", 8<<10), "8204 bytes"},
		{"http://169.254.169.254/latest/meta-data", "169.254.169.254"},
		{"http://[fe80::1%25lo]/", "fe80::1"},
	} {
		_, err := c.Get(t.Context(), tc.url, nil)
		if !errors.Is(err, ErrRefused) || !strings.Contains(fmt.Sprint(err), tc.say) {
			t.Errorf("%.60s: got %v, want %q", tc.url, err, tc.say)
		}
	}
}

func TestRedirects(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n, _ := strconv.Atoi(r.URL.Query().Get("n")); {
		case r.URL.Path == "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case r.URL.Path == "/ftp":
			http.Redirect(w, r, "ftp://host/x", http.StatusFound)
		case r.URL.Path == "/metadata":
			http.Redirect(w, r, "http://169.254.169.254/latest/", http.StatusFound)
		case n > 0:
			http.Redirect(w, r, fmt.Sprintf("/?n=%d", n-1), http.StatusFound)
		default:
			fmt.Fprint(w, "there")
		}
	}))
	defer s.Close()
	c := New(Options{})
	for _, tc := range []struct {
		path string
		want error
		say  string
	}{
		{"/?n=8", nil, ""},
		{"/?n=9", ErrUnreachable, "more than 8 redirects"},
		{"/loop", ErrUnreachable, "more than 8 redirects"},
		{"/ftp", ErrRefused, `"ftp" is not http`},
		{"/metadata", ErrRefused, "169.254.169.254"},
	} {
		b, err := c.Get(t.Context(), s.URL+tc.path, nil)
		if !errors.Is(err, tc.want) || !strings.Contains(fmt.Sprint(err), tc.say) {
			t.Errorf("%s: got %v, want %v", tc.path, err, tc.want)
		}
		if err == nil {
			if got, err := io.ReadAll(b); string(got) != "there" || err != nil {
				t.Errorf("%s: got %q, %v", tc.path, got, err)
			}
			b.Close()
		}
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + l.Addr().String()
	l.Close()
	_, err = New(Options{}).Get(t.Context(), nobody, nil)
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v", err)
	}

	synctest.Test(t, func(t *testing.T) {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/silent":
				<-r.Context().Done()
			case "/header":
				for i := range 2000 {
					w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 100))
				}
			default:
				http.Error(w, "no", http.StatusNotFound)
			}
		})
		for _, tc := range []struct {
			path, say string
			after     time.Duration
		}{
			{"/silent", "no answer within 8s", 8 * time.Second},
			{"/header", "header", 0},
			{"/", "404 Not Found", 0},
		} {
			start := time.Now()
			_, err := c.Get(t.Context(), "http://host"+tc.path, nil)
			if !errors.Is(err, ErrUnreachable) || !strings.Contains(fmt.Sprint(err), tc.say) || time.Since(start) != tc.after {
				t.Errorf("%s: got %v after %v, want %q after %v", tc.path, err, time.Since(start), tc.say, tc.after)
			}
		}
		cause := errors.New("the user is gone")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, cause)
		defer cancel()
		if _, err := c.Get(ctx, "http://host/silent", nil); !errors.Is(err, cause) {
			t.Errorf("got %v, want %v", err, cause)
		}
	})
}

func TestOldStation(t *testing.T) {
	l := pipe.NewListener()
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = conn.Read(make([]byte, 4096))
		_, _ = io.WriteString(conn, "ICY 200 OK\r\nicy-name: Old\r\n\r\nsound")
		conn.Close()
	}()
	b, err := New(Options{Dial: l.DialContext}).Get(t.Context(), "http://host/", nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(b)
	if string(got) != "sound" || err != nil || b.Header.Get("Icy-Name") != "Old" || b.Size != -1 {
		t.Errorf("got %q, %v, %v", got, err, b.Header)
	}
}

// flaky serves data, and breaks off after so many bytes of each answer.
type flaky struct {
	data   []byte
	step   int
	ranges bool
	tag    func() string
	asked  []string // the Range of each request
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.asked = append(f.asked, r.Header.Get("Range"))
	if f.tag != nil {
		w.Header().Set("ETag", f.tag())
	}
	from := 0
	if f.ranges {
		w.Header().Set("Accept-Ranges", "bytes")
		if text := r.Header.Get("Range"); text != "" && (r.Header.Get("If-Range") == w.Header().Get("ETag")) {
			_, _ = fmt.Sscanf(text, "bytes=%d-", &from)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(f.data)-1, len(f.data)))
		}
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(f.data)-from))
	if w.Header().Get("Content-Range") != "" {
		w.WriteHeader(http.StatusPartialContent)
	}
	end := len(f.data)
	if f.step > 0 {
		end = min(end, from+f.step)
	}
	_, _ = w.Write(f.data[from:end])
}

func TestBrokenTransferGoesOn(t *testing.T) {
	data := make([]byte, 300_000)
	for i := range data {
		data[i] = byte(i * i / 251)
	}
	changing := 0
	for _, tc := range []struct {
		name string
		f    *flaky
		want error
		n    int // requests
	}{
		{"whole", &flaky{data: data, ranges: true}, nil, 1},
		{"with ranges", &flaky{data: data, step: 70_000, ranges: true, tag: func() string { return `"a"` }}, nil, 5},
		{"ranges without a tag", &flaky{data: data, step: 70_000, ranges: true}, nil, 5},
		{"no ranges: never gets further", &flaky{data: data, step: 70_000}, ErrUnreachable, 1 + retries},
		{"it changes", &flaky{data: data, step: 70_000, ranges: true, tag: func() string {
			changing++
			return fmt.Sprintf("%q", strconv.Itoa(changing))
		}}, ErrUnreachable, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := serve(t, tc.f.ServeHTTP)
				b, err := c.Get(t.Context(), "http://host/", nil)
				if err != nil {
					t.Fatal(err)
				}
				defer b.Close()
				got, err := io.ReadAll(b)
				if !errors.Is(err, tc.want) || len(tc.f.asked) != tc.n {
					t.Errorf("got %v after the requests %q, want %v after %d", err, tc.f.asked, tc.want, tc.n)
				}
				if err == nil && !bytes.Equal(got, data) || !bytes.HasPrefix(data, got) {
					t.Errorf("got other bytes, %d of %d", len(got), len(data))
				}
			})
		})
	}
	t.Run("no ranges, breaks off once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := &flaky{data: data, step: 70_000}
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				f.ServeHTTP(w, r)
				f.step = 0
			})
			b, err := c.Get(t.Context(), "http://host/", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, data) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
		})
	})
}

func TestSeek(t *testing.T) {
	data := []byte(strings.Repeat("0123456789", 1000))
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{data: data, ranges: true}
		c := serve(t, f.ServeHTTP)
		b, err := c.Get(t.Context(), "http://host/", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		for _, tc := range []struct {
			off    int64
			whence int
			at     int64
		}{{5003, io.SeekStart, 5003}, {-7, io.SeekEnd, 9993}, {0, io.SeekStart, 0}, {90, io.SeekCurrent, 100}, {99999, io.SeekStart, 10000}} {
			at, err := b.Seek(tc.off, tc.whence)
			if err != nil || at != tc.at && tc.off != 99999 {
				t.Fatalf("got %d, %v, want %d", at, err, tc.at)
			}
			var got [10]byte
			n, err := io.ReadFull(b, got[:])
			if want := data[tc.at:min(tc.at+10, 10000)]; string(got[:n]) != string(want) {
				t.Errorf("at %d: got %q, %v, want %q", tc.at, got[:n], err, want)
			}
		}
		none := &flaky{data: data}
		c = serve(t, none.ServeHTTP)
		if b, err = c.Get(t.Context(), "http://host/", nil); err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if _, err := b.Seek(10, io.SeekStart); err == nil || b.Seekable() {
			t.Error("a body without ranges was positioned")
		}
	})
}

func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte("some"))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		})
		b, err := c.Get(t.Context(), "http://host/", nil)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		got, err := io.ReadAll(b)
		if string(got) != "some" || !errors.Is(err, ErrUnreachable) || time.Since(start) != 15*time.Second {
			t.Errorf("got %q, %v after %v", got, err, time.Since(start))
		}
		b.Close()

		// A reader that pauses is no stall, and Close ends a Read that waits.
		if b, err = c.Get(t.Context(), "http://host/", nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if _, err := io.ReadFull(b, make([]byte, 4)); err != nil {
			t.Errorf("after an hour: %v", err)
		}
		start = time.Now()
		time.AfterFunc(time.Second, func() { b.Close() })
		if _, err := b.Read(make([]byte, 1)); err == nil || time.Since(start) != time.Second {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}

func TestAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "image/png")
			if r.URL.Path == "/endless" {
				for _, err := w.Write(make([]byte, 1000)); err == nil; _, err = w.Write(make([]byte, 1000)) {
					w.(http.Flusher).Flush()
				}
				return
			}
			w.Header().Set("Content-Length", "50000000")
			_, _ = w.Write([]byte("x"))
		})
		for _, path := range []string{"/large", "/endless"} {
			if _, _, err := c.All(t.Context(), "http://host"+path, 1<<20); !errors.Is(err, ErrTooLarge) {
				t.Errorf("%s: got %v", path, err)
			}
		}
		_, kind, err := c.All(t.Context(), "http://host/large", 50_000_000)
		if !errors.Is(err, ErrUnreachable) || kind != "image/png" {
			t.Errorf("a transfer that breaks off: got %q, %v", kind, err)
		}
	})
}
