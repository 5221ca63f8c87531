package dialect

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"resonatebridge/resonate/protocol"
)

var updateGolden = flag.Bool("update", false, "rewrite the golden files in testdata")

// conversation is one message of every kind, in an order that makes sense.
// Server messages have the type of the model's, client messages likewise.
func conversation() []any {
	pcm := protocol.Format{Codec: "pcm", Channels: 2, SampleRate: 48000, BitDepth: 16}
	flac := protocol.Format{Codec: "flac", Channels: 2, SampleRate: 44100, BitDepth: 24}
	commands := []protocol.ControllerCommandName{
		protocol.ControlPlay, protocol.ControlPause, protocol.ControlStop, protocol.ControlNext, protocol.ControlPrevious,
		protocol.ControlVolume, protocol.ControlMute, protocol.ControlRepeatOff, protocol.ControlRepeatOne, protocol.ControlRepeatAll,
		protocol.ControlShuffle, protocol.ControlUnshuffle, protocol.ControlSwitch, protocol.ControlSeek, protocol.ControlSeekRelative,
	}
	messages := []any{
		protocol.ServerHello{
			ServerID: "hub", Name: "Hub <1>", Version: 1, ActiveRoles: []protocol.Role{protocol.RolePlayer, protocol.RoleController, protocol.RoleMetadata},
			Reason: protocol.ReasonPlayback, Languages: []string{"de", "en"},
		},
		protocol.ServerActivate{
			Activities:  []protocol.Activity{protocol.ActivityPlayback},
			ActiveRoles: []protocol.Role{protocol.RolePlayer, protocol.RoleController, protocol.RoleMetadata, protocol.RoleColor},
		},
		protocol.ClientTime{ClientTransmitted: 1 << 60},
		protocol.ServerTime{ClientTransmitted: 1 << 60, ServerReceived: -1, ServerTransmitted: 3},
		protocol.ClientState{
			Available: new(true), SyncError: new(false),
			Player: &protocol.PlayerState{
				Volume: new(40), Muted: new(false), OutputDelayMs: new(120), RequiredLeadMs: new(250), MinBufferMs: new(1000),
				Commands: []protocol.PlayerCommandName{protocol.CommandSetOutputDelay}, PlaybackReported: new(false),
			},
		},
		protocol.GroupUpdate{PlaybackState: protocol.PlaybackPlaying, GroupID: "g1", GroupName: "Den"},
		protocol.ServerState{Controller: &protocol.ControllerState{
			Commands: commands, Volume: 30, Muted: true, Repeat: protocol.RepeatAll, Shuffle: true, SeekMaxMs: 215_000,
			Members: []protocol.GroupMember{{ClientID: "c1", Name: "Kitchen"}},
		}},
		protocol.ServerState{Metadata: &protocol.Metadata{
			Timestamp: 42, Title: "Title", Artist: "Artist", AlbumArtist: "Various", Album: "Album", ArtworkURL: "http://hub/a.jpg",
			Year: 1999, Track: 3, Progress: &protocol.Progress{PositionMs: 61_000, DurationMs: 215_000, SpeedPermille: 1000},
			Repeat: protocol.RepeatAll, Shuffle: true,
		}},
		protocol.ServerState{Metadata: &protocol.Metadata{Timestamp: 43, Repeat: protocol.RepeatOff}}, // blank
		protocol.StreamStart{Player: &protocol.StreamPlayer{Format: pcm}, Transmitted: 600_000},
		protocol.AudioChunk{Timestamp: 1_000_000, SendAhead: 400_000, Data: []byte{1, 2, 3, 4}},
		protocol.StreamStart{Player: &protocol.StreamPlayer{Format: flac, CodecHeader: []byte("fLaC\x00")}},
		protocol.StreamClear{Roles: []protocol.Role{protocol.RolePlayer}, Transmitted: 700_000},
		protocol.StreamEnd{Roles: []protocol.Role{protocol.RolePlayer}},
		protocol.ServerCommand{Command: protocol.CommandVolume, Volume: 25},
		protocol.ServerCommand{Command: protocol.CommandMute, Mute: true},
		protocol.ServerCommand{Command: protocol.CommandSetOutputDelay, OutputDelayMs: 80},
		protocol.ClientState{Player: &protocol.PlayerState{Volume: new(25), Muted: new(true), PlaybackReported: new(true)}},
		protocol.ClientState{Available: new(false)},
		protocol.ClientState{Available: new(true), SyncError: new(true)},
		protocol.RequestFormat{Format: protocol.Format{Codec: "flac"}},
		protocol.GroupUpdate{PlaybackState: protocol.PlaybackPaused, GroupID: "g2", GroupName: "Den"},
		protocol.ListGroups{},
		protocol.GroupList{Groups: []protocol.GroupListEntry{
			{GroupID: "g1", Name: "Den", State: protocol.PlaybackPlaying, MemberCount: 2},
			{GroupID: "g2", Name: "Hall", State: protocol.PlaybackStopped},
		}},
		protocol.JoinGroup{GroupID: "g1"},
		protocol.JoinGroup{},
		protocol.ClientLeave{},
	}
	for _, c := range commands {
		m := protocol.ClientCommand{Command: c}
		switch c {
		case protocol.ControlVolume:
			m.Volume = 55
		case protocol.ControlMute:
			m.Mute = true
		case protocol.ControlSeek:
			m.PositionMs = 90_000
		case protocol.ControlSeekRelative:
			m.OffsetMs = -15_000
		default:
		}
		messages = append(messages, m)
	}
	for _, r := range []protocol.GoodbyeReason{
		protocol.GoodbyeAnotherServer, protocol.GoodbyeShutdown, protocol.GoodbyeRestart, protocol.GoodbyeUserRequest,
		protocol.GoodbyeUnauthorized, protocol.GoodbyePairingRequired, protocol.GoodbyeConcurrentAttempt, protocol.GoodbyeUnpaired,
	} {
		messages = append(messages, protocol.ClientGoodbye{Reason: r})
	}
	return append(messages, trust()...)
}

// trust is the conversation that only encrypted dialects have.
func trust() []any {
	share, tag, wrapped := [protocol.ShareSize]byte{1}, [protocol.TagSize]byte{2}, [protocol.WrappedSize]byte{3}
	nonce := [protocol.NonceSize]byte{4}
	key, err := protocol.NewPSK(make([]byte, protocol.PSKSize))
	if err != nil {
		panic(err)
	}
	return []any{
		protocol.ServerActivate{Activities: []protocol.Activity{protocol.ActivityPairing}, Pairing: &protocol.PairingChoice{Method: protocol.PairByDynamicCode, Format: protocol.CodeDigits}},
		protocol.ClientPairPending{Index: 1, Message: "press the button"},
		protocol.ClientPairInit{Index: 1, Commitment: &nonce},
		protocol.ServerPairInit{Nonce: &nonce},
		protocol.ServerPairAuth{Share: share},
		protocol.ClientPairAuth{Share: share},
		protocol.ServerPairConfirm{Tag: tag},
		protocol.ClientPairRetry{},
		protocol.ServerPairInit{},
		protocol.ClientPairConfirm{Tag: tag, WrappedNonce: &wrapped},
		protocol.ClientPairFinalize{Wrapped: &wrapped},
		protocol.ServerPairFinalize{},
		protocol.ServerActivate{Activities: []protocol.Activity{protocol.ActivityPairing, protocol.ActivityPlayback}, Pairing: &protocol.PairingChoice{Method: protocol.PairByPSK}},
		protocol.ClientPairInit{Index: 2},
		protocol.ClientPairConfirm{Tag: tag},
		protocol.ClientPairFinalize{LongTerm: key},
		protocol.PairAbort{Reason: protocol.AbortUserCancelled},
		protocol.ServerActivate{ActiveRoles: []protocol.Role{}},
		protocol.ServerUnpair{},
	}
}

// transcriptHello offers everything that the model has.
func transcriptHello() protocol.ClientHello {
	return protocol.ClientHello{
		ClientID: "c1", Name: "Kitchen", Version: 1,
		Device: protocol.DeviceInfo{ProductName: "Speaker", Manufacturer: "Acme", SoftwareVersion: "1.0", MACAddress: "aa:bb:cc:00:11:22"},
		Roles:  []protocol.Role{protocol.RolePlayer, protocol.RoleController, protocol.RoleMetadata, protocol.RoleColor, protocol.RoleArtwork},
		Player: &protocol.PlayerSupport{
			Formats: []protocol.Format{
				{Codec: "flac", Channels: 2, SampleRate: 48000, BitDepth: 16},
				{Codec: "pcm", Channels: 2, SampleRate: 48000, BitDepth: 16},
			},
			BufferCapacity: 800_000,
			Commands:       []protocol.PlayerCommandName{protocol.CommandVolume, protocol.CommandMute},
		},
		Artwork: &protocol.ArtworkSupport{Channels: []protocol.ArtworkChannel{{Source: "album", Format: "jpeg", Width: 300, Height: 300}}},
		Trust: &protocol.ClientTrust{
			Methods: protocol.PairMethods{
				PSK:     &protocol.FixedSecret{Locations: []protocol.SecretLocation{protocol.LocationDevice}},
				Dynamic: &protocol.DynamicCode{Channels: []protocol.CodeChannel{protocol.ChannelDisplay}, Formats: []protocol.CodeFormat{protocol.CodeDigits}},
			},
			Unpaired: true,
		},
	}
}

// meet lets both sides of a dialect say hello.
func meet(t *testing.T, name Name) (*ClientWire, *ServerWire, Frame, protocol.ClientHello) {
	t.Helper()
	c := client(t, name)
	first := c.Hello(transcriptHello())
	_, _, path := name.Service()
	w, h, err := Accept(first, path, nil)
	if c.Encrypted() {
		w, h, err = AcceptEncrypted(first, "c1")
	}
	if err != nil {
		t.Fatal(err)
	}
	return c, w, first, h
}

// TestTranscript lets both sides of each dialect talk: every message of the
// model is encoded by one side and decoded by the other. The golden files show
// the frames and what was understood.
func TestTranscript(t *testing.T) {
	for _, name := range append(Names(), Encrypted()...) {
		t.Run(string(name), func(t *testing.T) {
			var out strings.Builder
			client, server, first, h := meet(t, name)
			fmt.Fprintf(&out, "C  %s\n   %s\n", first.Data, show(t, h))

			for _, m := range conversation() {
				fmt.Fprintf(&out, "%s\n", strings.TrimPrefix(fmt.Sprintf("\n%T", m), "protocol."))
				switch m := m.(type) {
				case protocol.ClientMessage:
					for _, f := range client.Encode(m) {
						got, notes, err := server.Decode(f)
						if err != nil {
							t.Fatalf("%T: %s: %v", m, f.Data, err)
						}
						fmt.Fprintf(&out, "C  %s\n   %s\n", f.Data, show(t, got))
						for _, n := range notes {
							fmt.Fprintf(&out, "   note: %s\n", n)
						}
					}
				case protocol.ServerMessage:
					frames, err := server.Encode(m)
					if err != nil {
						t.Fatalf("%T: %v", m, err)
					}
					for _, f := range frames {
						got, err := client.Decode(f)
						if err != nil {
							t.Fatalf("%T: %s: %v", m, f.Data, err)
						}
						if f.Binary {
							fmt.Fprintf(&out, "S  %x\n   %s\n", f.Data, show(t, got))
						} else {
							fmt.Fprintf(&out, "S  %s\n   %s\n", f.Data, show(t, got))
						}
					}
				}
			}
			if got := server.Name(); got != name {
				t.Errorf("the server takes the dialect for %s, want %s", got, name)
			}
			golden(t, string(name), out.String())
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", "TestTranscript", name+".golden")
	if *updateGolden {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	g, w := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range max(len(g), len(w)) {
		if i >= len(g) || i >= len(w) || g[i] != w[i] {
			t.Fatalf("%s differs in line %d (rewrite with -update after a review):\ngot  %q\nwant %q", file, i+1, at(g, i), at(w, i))
		}
	}
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(end)"
}

// key names the kind of a message, and which one where there are several.
func key(m any) string {
	k := strings.TrimPrefix(fmt.Sprintf("%T", m), "protocol.")
	switch m := m.(type) {
	case protocol.ClientCommand:
		k += "/" + string(m.Command)
	case protocol.ServerCommand:
		k += "/" + string(m.Command)
	case protocol.ClientGoodbye:
		k += "/" + string(m.Reason)
	}
	return k
}

// TestRoundTrip says which messages arrive changed, or not at all, in each
// dialect. All others arrive as they were sent. How they change stands in the
// transcripts.
func TestRoundTrip(t *testing.T) {
	const (
		encryptedEra = " ClientGoodbye/unauthorized ClientGoodbye/pairing_required ClientGoodbye/concurrent_attempt ClientGoodbye/unpaired"
		onlyR1       = " ListGroups GroupList JoinGroup"
		always       = " ClientState" + // R1's playing and idle, and timing before S4, don't exist elsewhere
			" GroupUpdate" + // paused, or R1 without a name
			" ServerState ClientLeave" + encryptedEra // members of a group; leave is newer than all
		seek   = " ClientCommand/seek ClientCommand/seek_relative"
		sealed = " ServerActivate StreamStart AudioChunk ServerUnpair ClientPairPending ClientPairInit ServerPairInit ServerPairAuth ClientPairAuth" +
			" ServerPairConfirm ClientPairRetry ClientPairConfirm ClientPairFinalize ServerPairFinalize PairAbort"
	)
	for name, want := range map[Name]string{
		R1: always + sealed + seek + " ServerHello StreamClear StreamEnd ServerCommand/volume ServerCommand/mute ServerCommand/set_output_delay" +
			" ClientCommand/repeat_off ClientCommand/repeat_one ClientCommand/repeat_all ClientCommand/shuffle ClientCommand/unshuffle" +
			" ClientGoodbye/another_server ClientGoodbye/shutdown ClientGoodbye/restart ClientGoodbye/user_request",
		R2: always + sealed + onlyR1 + seek + " ServerHello StreamClear StreamEnd ServerCommand/set_output_delay",
		S1: always + sealed + onlyR1 + seek + " ServerHello StreamClear StreamEnd ServerCommand/set_output_delay",
		S2: always + sealed + onlyR1 + seek + " ServerHello StreamClear ServerCommand/set_output_delay",
		S3: always + sealed + onlyR1 + seek + " ServerHello StreamClear",
		// Encrypted, the id and the roles of a server stand elsewhere; G1 names the
		// roles in every activation and has no send_ahead; G2 has complete states
		// without playback modes, and formats.
		G1: onlyR1 + " ClientState GroupUpdate ServerState ClientLeave ServerHello ServerActivate AudioChunk",
		G2: onlyR1 + " ClientState GroupUpdate ServerState ServerHello RequestFormat",
		S4: always + sealed + onlyR1 + " ServerHello StreamClear",
	} {
		t.Run(string(name), func(t *testing.T) {
			client, server, _, _ := meet(t, name)
			changed := map[string]bool{}
			for _, m := range conversation() {
				if got, sent := transfer(t, client, server, m), show(t, m); got != sent {
					changed[key(m)] = true
				}
			}
			for _, k := range strings.Fields(want) {
				if !changed[k] {
					t.Errorf("%s: got it unchanged, want it changed; correct the table", k)
				}
				delete(changed, k)
			}
			if len(changed) > 0 {
				t.Errorf("got these changed, want them unchanged: %v", changed)
			}
		})
	}
}

// transfer sends m and returns what the other side understood.
func transfer(t *testing.T, client *ClientWire, server *ServerWire, m any) string {
	t.Helper()
	var got []string
	switch m := m.(type) {
	case protocol.ClientMessage:
		for _, f := range client.Encode(m) {
			d, _, err := server.Decode(f)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, show(t, d))
		}
	case protocol.ServerMessage:
		frames, err := server.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range frames {
			d, err := client.Decode(f)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, show(t, d))
		}
	}
	return strings.Join(got, " ")
}
