package dialect

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"resonatebridge/resonate/protocol"
)

// seeds adds the frames of the transcripts and of the real hellos.
func seeds(f *testing.F, add func(frame []byte)) {
	f.Helper()
	for _, pattern := range []string{"testdata/hellos/*.jsonl", "testdata/TestTranscript/*.golden"} {
		files, err := filepath.Glob(filepath.FromSlash(pattern))
		if err != nil || len(files) == 0 {
			f.Fatalf("%s: %v, %d files", pattern, err, len(files))
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			for line := range strings.Lines(string(data)) {
				if _, frame, ok := strings.Cut(line, "{"); ok {
					add([]byte("{" + strings.TrimSpace(frame)))
				}
			}
		}
	}
	add([]byte("\x04\x00\x00\x00\x00\x00\x00\x00\x00"))
	add([]byte(`{"type":"client/hello","payload":{"client_id":1e999,"version":"1","supported_roles":[[]]}}`))
}

func FuzzAccept(f *testing.F) {
	seeds(f, func(frame []byte) { f.Add(frame, "/sendspin", false) })
	f.Fuzz(func(t *testing.T, data []byte, path string, binary bool) {
		w, h, err := Accept(Frame{Binary: binary, Data: data}, path, nil)
		if err != nil {
			var r *RefusedError
			if w != nil || !errors.As(err, &r) || r.Code < 1002 || r.Text == "" || r.Detail == "" {
				t.Fatalf("got %v, %#v", w, err)
			}
			return
		}
		if h.ClientID == "" || len(h.ClientID) > maxID || len(h.Name) > maxText || strings.ContainsAny(h.Name, "\x00\x1b\n") || h.Version != 1 {
			t.Fatalf("got %+v", h)
		}
		if h.Player != nil && (len(h.Player.Formats) > maxProduct || h.Player.BufferCapacity < 0) {
			t.Fatalf("got %+v", h.Player)
		}
		frames, err := w.Encode(protocol.ServerHello{ServerID: "s", ActiveRoles: h.Roles})
		if err != nil || len(frames) != 1 {
			t.Fatalf("answer: got %v, %v", frames, err)
		}
	})
}

func FuzzServerDecode(f *testing.F) {
	seeds(f, func(frame []byte) { f.Add(frame, false, "S4") })
	f.Fuzz(func(t *testing.T, data []byte, binary bool, force string) {
		w, _, err := Accept(hello(js), "", func(string) Name { return Name(force) })
		if err != nil {
			t.Skip("no dialect of this name takes the hello")
		}
		before := bytes.Clone(data)
		m, _, err := w.Decode(Frame{Binary: binary, Data: data})
		if !bytes.Equal(before, data) {
			t.Fatal("the frame was written to")
		}
		var d *protocol.DecodeError
		if err != nil && (m != nil || !errors.As(err, &d)) {
			t.Fatalf("got %v, %#v", m, err)
		}
		if err != nil && len(err.Error()) > 1024 {
			t.Fatalf("an error of %d bytes", len(err.Error()))
		}
		if st, ok := m.(protocol.ClientState); ok && st.Player != nil {
			p := st.Player
			for _, v := range []struct {
				got *int
				max int
			}{{p.Volume, protocol.VolumeMax}, {p.OutputDelayMs, protocol.OutputDelayMaxMs}, {p.RequiredLeadMs, protocol.TimingMaxMs}, {p.MinBufferMs, protocol.TimingMaxMs}} {
				if v.got != nil && (*v.got < 0 || *v.got > v.max) {
					t.Fatalf("got %d, want 0 to %d", *v.got, v.max)
				}
			}
		}
		if got, ok := scanClientTime(data); ok && !binary {
			_, p, err := envelope(data, nil)
			if err != nil {
				t.Fatalf("the fast path took what is no message: %v", err)
			}
			if want, err := p.micros("client_transmitted"); err != nil || want != int64(got) {
				t.Fatalf("fast path: got %d, want %d, %v", got, want, err)
			}
		}
	})
}

// FuzzEncrypted lets a client of an encrypted dialect say anything.
func FuzzEncrypted(f *testing.F) {
	seeds(f, func(frame []byte) { f.Add([]byte(current), append([]byte{0}, frame...)) })
	f.Add([]byte(`{"trust_level":"user",`+current[1:]), []byte("\x0c"))
	f.Fuzz(func(t *testing.T, payload, message []byte) {
		w, h, err := AcceptEncrypted(hello(string(payload)), "id")
		if err != nil {
			var r *RefusedError
			if w != nil || !errors.As(err, &r) || r.Code < 1002 || r.Text == "" || r.Detail == "" {
				t.Fatalf("got %v, %#v", w, err)
			}
			return
		}
		if h.ClientID != "id" || h.Trust == nil || h.HasRole(protocol.RolePlayer) && h.Player == nil || h.Trust.Methods.Static != nil && h.Trust.Methods.Dynamic != nil {
			t.Fatalf("got %+v", h)
		}
		if w.Name() != G1 && w.Name() != G2 || w.Old() != (w.Name() == G1) {
			t.Fatalf("got %s, old %v", w.Name(), w.Old())
		}
		before := bytes.Clone(message)
		m, _, err := w.Decode(FrameOf(message))
		var d *protocol.DecodeError
		if err != nil && (m != nil || !errors.As(err, &d)) {
			t.Fatalf("got %v, %#v", m, err)
		}
		if !bytes.Equal(before, message) {
			t.Fatal("the message was written to")
		}
		if p, ok := m.(protocol.ClientPairFinalize); ok && p.LongTerm.IsZero() == (p.Wrapped == nil) {
			t.Fatal("both keys, or none")
		}
	})
}

func FuzzClientDecode(f *testing.F) {
	seeds(f, func(frame []byte) {
		f.Add(frame, false, "R1")
		f.Add(frame, false, "G2")
	})
	f.Fuzz(func(t *testing.T, data []byte, binary bool, name string) {
		w, err := NewClient(Name(name))
		if err != nil {
			t.Skip("no dialect of this name")
		}
		w.Hello(transcriptHello())
		for range 2 { // the second meets what the first left
			m, err := w.Decode(Frame{Binary: binary, Data: data})
			var d *protocol.DecodeError
			if err != nil && (m != nil || !errors.As(err, &d)) {
				t.Fatalf("got %v, %#v", m, err)
			}
		}
	})
}
