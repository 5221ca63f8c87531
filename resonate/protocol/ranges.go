package protocol

// Ranges and defaults of the player role (spec: client/state, player@v1).
const (
	VolumeMax        = 100    // perceived loudness in percent; the least is 0
	OutputDelayMaxMs = 5_000  // the least is 0
	TimingMaxMs      = 30_000 // of RequiredLeadMs and MinBufferMs; the least is 0

	// What a player that reports no timing gets, as the reference server does
	// (Sendspin/aiosendspin, server/roles/player/v1.py).
	DefaultRequiredLeadMs = 250
	DefaultMinBufferMs    = 1_000
)
