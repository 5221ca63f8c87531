package client

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"
)

type wire struct{}

func newWire(string) *wire { return &wire{} }

func text(typ string, payload any) dialect.Frame {
	b, err := json.Marshal(map[string]any{"type": typ, "payload": payload})
	if err != nil {
		panic(err)
	}
	return dialect.Frame{Data: b}
}

func (*wire) Hello(h protocol.ClientHello) dialect.Frame {
	p := map[string]any{"client_id": h.ClientID, "name": h.Name, "version": 1, "supported_roles": h.Roles}
	if h.Player != nil {
		var formats []any
		for _, f := range h.Player.Formats {
			formats = append(formats, map[string]any{"codec": f.Codec, "channels": f.Channels, "sample_rate": f.SampleRate, "bit_depth": f.BitDepth})
		}
		p["player@v1_support"] = map[string]any{"supported_formats": formats, "buffer_capacity": h.Player.BufferCapacity, "supported_commands": []string{"volume", "mute"}}
	}
	return text("client/hello", p)
}

func (*wire) AppendTime(dst []byte, m protocol.ClientTime) []byte {
	return append(dst, fmt.Sprintf(`{"type":"client/time","payload":{"client_transmitted":%d}}`, m.ClientTransmitted)...)
}

func (*wire) Encode(m protocol.ClientMessage) []dialect.Frame {
	switch m := m.(type) {
	case protocol.ClientState:
		p := map[string]any{}
		if m.Available != nil {
			p["state"] = map[bool]string{true: "synchronized", false: "external_source"}[*m.Available]
		}
		if q := m.Player; q != nil {
			s := map[string]any{}
			if q.Volume != nil {
				s["volume"] = *q.Volume
			}
			if q.Muted != nil {
				s["muted"] = *q.Muted
			}
			if q.OutputDelayMs != nil {
				s["static_delay_ms"] = *q.OutputDelayMs
			}
			p["player"] = s
		}
		return []dialect.Frame{text("client/state", p)}
	case protocol.ClientCommand:
		return []dialect.Frame{text("client/command", map[string]any{"controller": map[string]any{"command": m.Command}})}
	case protocol.ClientGoodbye:
		return []dialect.Frame{text("client/goodbye", map[string]any{"reason": m.Reason})}
	}
	return nil
}

func (*wire) Decode(f dialect.Frame) (protocol.ServerMessage, error) {
	if f.Binary {
		if len(f.Data) < 9 {
			return nil, errors.New("short")
		}
		return protocol.AudioChunk{Timestamp: timesync.Micros(binary.BigEndian.Uint64(f.Data[1:9])), Data: f.Data[9:]}, nil
	}
	var e struct {
		Type    string
		Payload struct {
			ServerID          string `json:"server_id"`
			Name              string
			ConnectionReason  string `json:"connection_reason"`
			ClientTransmitted int64  `json:"client_transmitted"`
			ServerReceived    int64  `json:"server_received"`
			ServerTransmitted int64  `json:"server_transmitted"`
			PlaybackState     string `json:"playback_state"`
			GroupID           string `json:"group_id"`
			GroupName         string `json:"group_name"`
			Player            *struct {
				Command       string
				Volume        int
				Mute          bool
				Codec         string
				SampleRate    int `json:"sample_rate"`
				Channels      int
				BitDepth      int    `json:"bit_depth"`
				CodecHeader   string `json:"codec_header"`
				StaticDelayMs int    `json:"static_delay_ms"`
			}
		}
	}
	if err := json.Unmarshal(f.Data, &e); err != nil {
		return nil, err
	}
	p := e.Payload
	switch e.Type {
	case "server/hello":
		return protocol.ServerHello{ServerID: p.ServerID, Name: p.Name, Version: 1, Reason: protocol.ConnectionReason(p.ConnectionReason)}, nil
	case "server/time":
		return protocol.ServerTime{ClientTransmitted: timesync.Micros(p.ClientTransmitted), ServerReceived: timesync.Micros(p.ServerReceived), ServerTransmitted: timesync.Micros(p.ServerTransmitted)}, nil
	case "group/update":
		return protocol.GroupUpdate{PlaybackState: protocol.PlaybackState(p.PlaybackState), GroupID: p.GroupID, GroupName: p.GroupName}, nil
	case "server/command":
		c := p.Player.Command
		if c == "set_static_delay" {
			c = "set_output_delay"
		}
		return protocol.ServerCommand{Command: protocol.PlayerCommandName(c), Volume: p.Player.Volume, Mute: p.Player.Mute, OutputDelayMs: p.Player.StaticDelayMs}, nil
	case "stream/start":
		if p.Player == nil {
			return protocol.StreamStart{}, nil
		}
		h, err := base64.StdEncoding.DecodeString(p.Player.CodecHeader)
		return protocol.StreamStart{Player: &protocol.StreamPlayer{Format: protocol.Format{Codec: p.Player.Codec, Channels: p.Player.Channels, SampleRate: p.Player.SampleRate, BitDepth: p.Player.BitDepth}, CodecHeader: h}}, err
	case "stream/clear":
		return protocol.StreamClear{}, nil
	case "stream/end":
		return protocol.StreamEnd{}, nil
	}
	return nil, nil
}
