package interop

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// reference is the Python server, which turns away whoever departs from its
// specification.
type reference struct {
	*peer
	url   string
	begin func() // starts it, again too
}

func startReference(t *testing.T, version string) *reference {
	t.Helper()
	port, dir := freePort(t), t.TempDir()
	r := &reference{url: fmt.Sprintf("ws://127.0.0.1:%d/sendspin", port)}
	r.begin = func() {
		r.peer = startPeer(t, "aiosendspin "+version, installed("aiosendspin-"+version, "bin", "python"), "peers/encrypted_server.py", fmt.Sprint(port), "Reference", dir)
		r.heard(0, 15*time.Second, "its id", func(ev map[string]any) bool { return ev["event"] == "id" })
	}
	r.begin()
	return r
}

// ours is bridge player, a process, that the reference knows by id.
type ours struct {
	*sealedSpeaker
	r     *reference
	begin func() // starts it, again too
	meet  func() // has the reference dial it, if it does
	id    string
	out   string // what it plays
}

// event waits for one of the reference about it.
func (o *ours) event(mark int, name string, ok func(ev map[string]any) bool) {
	o.t.Helper()
	o.r.heard(mark, 20*time.Second, o.name+": "+name, func(ev map[string]any) bool {
		return ev["event"] == name && (ev["id"] == nil || ev["id"] == o.id) && (ok == nil || ok(ev))
	})
}

// tell has the reference do something with it.
func (o *ours) tell(do string, value any, more ...string) {
	o.t.Helper()
	line := fmt.Sprintf(`{"do": %q, "client": %q, "value": %v`, do, o.id, value)
	for i := 0; i < len(more); i += 2 {
		line += fmt.Sprintf(", %q: %q", more[i], more[i+1])
	}
	if _, err := o.r.in.Write([]byte(line + "}\n")); err != nil {
		o.t.Fatal(err)
	}
}

// startOurs starts a player in a directory of its own and waits until the
// reference has it.
func startOurs(t *testing.T, r *reference, name, dialect string, dials bool, flags ...string) *ours {
	t.Helper()
	dir, addr := t.TempDir(), fmt.Sprintf("127.0.0.1:%d", freePort(t))
	o := &ours{r: r, out: filepath.Join(dir, "out.wav")}
	argv := append([]string{program, "player", "--name", name, "--dialect", dialect, "--state-dir", dir, "--show-token", "--out", o.out}, flags...)
	if dials {
		argv = append(argv, "--server", r.url)
	} else {
		argv = append(argv, "--listen", addr)
	}
	o.meet = func() {
		if !dials {
			r.do("dial", "ws://"+addr+"/sendspin")
		}
	}
	o.begin = func() {
		mark := r.mark()
		o.sealedSpeaker = &sealedSpeaker{process: start(t, name, nil, nil, argv...)}
		o.id = o.printed(`client_id=(\S{43})`)
		o.meet()
		o.event(mark, "connected", nil)
	}
	o.begin()
	return o
}

// volume sets it from the reference and waits until the player has reported it.
func (o *ours) volume(v int) {
	o.t.Helper()
	mark := o.r.mark()
	eventually(o.t, 15*time.Second, fmt.Sprintf("%s reports volume %d", o.name, v), func() bool {
		o.tell("volume", v) // goes nowhere before the player has reported for the first time
		o.tell("state", 0)
		time.Sleep(100 * time.Millisecond)
		o.r.mu.Lock()
		defer o.r.mu.Unlock()
		return slices.ContainsFunc(o.r.events[mark:], func(ev map[string]any) bool {
			return ev["event"] == "state" && ev["volume"] == float64(v)
		})
	})
}

// plays has the reference play, and looks for its noise in what was played.
func (o *ours) plays() {
	o.t.Helper()
	o.volume(100)
	before, err := os.ReadFile(o.out)
	if err != nil {
		o.t.Fatal(err)
	}
	mark := o.r.mark()
	o.tell("play", 2)
	o.event(mark, "played", nil)
	after, err := os.ReadFile(o.out)
	if err != nil {
		o.t.Fatal(err)
	}
	var pcm []byte
	for x, i := uint32(1), 0; i < 2*2*48000; i++ {
		x = (x*1103515245 + 12345) & 0x7fffffff
		pcm = binary.LittleEndian.AppendUint16(pcm, uint16(int(x>>15)-32768))
	}
	// In blocks of 10 ms: it corrects its clock by a frame now and then.
	blocks, found := 0, 0
	for block := range slices.Chunk(pcm, 4*480) {
		blocks++
		if bytes.Contains(after[len(before):], block) {
			found++
		}
	}
	if found < blocks/2 {
		o.t.Errorf("%s: %d of %d blocks of the noise are in the %d bytes that it played", o.name, found, blocks, len(after)-len(before))
	}
}

// pair pairs by one method.
func (o *ours) pair(method, token string) {
	o.t.Helper()
	mark := o.r.mark()
	o.tell("pair", 0, "method", method, "format", "digits", "token", token)
	switch method {
	case "dynamic_pairing_code":
		o.printed(`Pairing code (\S+) \(round 1\)`)
		o.r.do("code", "000-000")
		o.r.do("code", o.printed(`Pairing code (\S+) \(round 2\)`))
	case "static_pairing_code":
		o.event(mark, "pending", nil)
		if _, err := io.WriteString(o.in, "\n"); err != nil {
			o.t.Fatal(err)
		}
		o.r.do("code", "1234-5678")
	}
	o.event(mark, "paired", nil)
}

// returns starts the reference again: they are paired as before. Then it takes
// the record from the player, which the reference lets in by the Sentinel and
// reports as a mismatch, and pairs again by token.
func (o *ours) returns(token string) {
	o.t.Helper()
	o.r.stop()
	o.r.begin()
	o.meet()
	o.event(0, "connected", func(ev map[string]any) bool { return ev["category"] == "long_term" })
	o.stop()
	if err := os.Remove(filepath.Join(filepath.Dir(o.out), "pairings.json")); err != nil {
		o.t.Fatal(err)
	}
	mark := o.r.mark()
	o.begin()
	o.event(mark, "mismatch", nil)
	o.event(mark, "connected", func(ev map[string]any) bool { return ev["category"] == "sentinel" })
	o.pair("pairing_psk", token)
	o.volume(34)
}

// TestReferenceServer has our player with the reference server: unpaired, paired
// in each way, started again, unpaired by the server.
func TestReferenceServer(t *testing.T) {
	for _, c := range []struct {
		version, dialect string
		methods          []string
		aes              bool
	}{
		{current, "G2", []string{"pairing_psk", "dynamic_pairing_code", "static_pairing_code"}, false},
		{current, "G2", []string{"dynamic_pairing_code"}, true},
		{"9.1.1", "G1", []string{"pairing_psk"}, false},
	} {
		for _, dials := range []bool{true, false} {
			who := fmt.Sprintf("server of aiosendspin %s, strict, %s, %s", c.version, map[bool]string{true: "our player dials", false: "it dials our player"}[dials],
				map[bool]string{true: "aesgcm", false: "chacha"}[c.aes])
			t.Run(who, func(t *testing.T) {
				needs(t, installed("aiosendspin-"+c.version, "bin", "python"))
				r := startReference(t, c.version)
				for _, method := range c.methods {
					flags := []string{fmt.Sprintf("--aes-gcm=%v", c.aes)}
					if method == "static_pairing_code" {
						flags = append(flags, "--pairing-code", "12345678")
					}
					o := startOurs(t, r, method, c.dialect, dials, flags...)
					o.tell("trust", 0)
					o.volume(31)
					o.plays()
					token := o.printed(`Pairing token: (\S+)`)
					o.pair(method, token)
					o.volume(32)
					o.plays()
					mark := r.mark()
					o.kill(syscall.SIGTERM)
					o.event(mark, "disconnected", func(ev map[string]any) bool { return ev["reason"] == "shutdown" })
					<-o.done
					mark = r.mark()
					o.begin()
					o.event(mark, "connected", func(ev map[string]any) bool { return ev["category"] == "long_term" })
					o.volume(33)
					if method == "dynamic_pairing_code" {
						o.returns(token)
						row(who, "the server started again: paired as before; our record lost: admitted by the Sentinel, told as a mismatch, paired by token")
					}
					mark = r.mark()
					o.tell("unpair", 0)
					o.event(mark, "disconnected", func(ev map[string]any) bool { return ev["reason"] == "unpaired" })
					o.stop()
					row(who, method+": unpaired, then paired on the same connection: volume, and it plays what was sent; started again; unpaired")
				}
			})
		}
	}
}
