package pipe

import "encoding/binary"

// Frame is a WebSocket frame on the wire, the only one of its message (RFC
// 6455, 5.2), for peers that break the rules a library keeps. Opcode is 1 for
// text, 2 for binary, 8 for close, 9 for ping, 10 for pong. A client's frames are
// masked; this one with zeros, which leaves the payload readable.
func Frame(opcode byte, payload []byte, masked bool) []byte {
	f := []byte{0x80 | opcode&0x0f, 0}
	switch n := len(payload); {
	case n < 126:
		f[1] = byte(n)
	case n < 1<<16:
		f[1] = 126
		f = binary.BigEndian.AppendUint16(f, uint16(n))
	default:
		f[1] = 127
		f = binary.BigEndian.AppendUint64(f, uint64(n))
	}
	if masked {
		f[1] |= 0x80
		f = append(f, 0, 0, 0, 0)
	}
	return append(f, payload...)
}
