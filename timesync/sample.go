package timesync

// Sample is one exchange of client/time and server/time: four readings of two
// clocks. The server's are on the server's timeline, the client's on the
// client's; neither is wall time.
type Sample struct {
	ClientTransmitted Micros // T1, client clock, echoed by the server
	ServerReceived    Micros // T2, server clock
	ServerTransmitted Micros // T3, server clock
	ClientReceived    Micros // T4, client clock, after decryption
}

// Offset returns the estimate of server clock minus client clock:
//
//	((T2 - T1) + (T3 - T4)) / 2
//
// The division truncates toward zero, as in the reference. It is exact when
// both directions took equally long and off by at most [Sample.MaxError]
// otherwise.
func (s Sample) Offset() Micros {
	return ((s.ServerReceived - s.ClientTransmitted) + (s.ServerTransmitted - s.ClientReceived)) / 2
}

// MaxError returns the bound on the error of [Sample.Offset], half the time
// spent on the network:
//
//	((T4 - T1) - (T3 - T2)) / 2
//
// The division truncates toward zero. A negative result means that the server
// claims to have held the message longer than the exchange lasted.
func (s Sample) MaxError() Micros {
	return ((s.ClientReceived - s.ClientTransmitted) - (s.ServerTransmitted - s.ServerReceived)) / 2
}
