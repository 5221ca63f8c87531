//go:build unix

package audio

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestPipe(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skipf("no FIFO here: %v", err)
	}
	o := Options{Roots: []string{dir}}
	src, err := Open(t.Context(), "pipe://"+path+"?sampleformat=44100:24:1", o)
	if err != nil {
		t.Fatal(err)
	}
	if i := src.Info(); i.Rate != 44100 || !i.Live || i.Native.BitDepth != 24 || i.Native.Channels != 1 {
		t.Errorf("got %+v", i)
	}
	buf := make([]int32, 20)
	for range 2 { // writers come and go
		w, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte{1, 2, 3, 4, 5, 6, 7}); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if n, err := src.Read(buf); err != nil || n != 2 || buf[0] != 0x03020100 || buf[1] != buf[0] || buf[2] != 0x06050400 {
			t.Fatalf("got %d frames, %v, %#x", n, err, buf[:4])
		}
		if w, err = os.OpenFile(path, os.O_WRONLY, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte{8, 9}); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if n, err := src.Read(buf); err != nil || n != 1 || buf[0] != 0x09080700 {
			t.Fatalf("got %d frames, %v, %#x", n, err, buf[0])
		}
	}
	done := make(chan error)
	go func() {
		_, err := src.Read(buf)
		done <- err
	}()
	src.Close()
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	for _, text := range []string{path, "pipe:///etc/passwd", "pipe://" + path + "?sampleformat=1:2:3", "pipe://" + dir} {
		if _, err := Open(t.Context(), text, o); !errors.Is(err, ErrRefused) && !errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: got %v", text, err)
		}
	}
}
