// Package audio turns what a user names, a URL, a file, a radio station, into
// samples, and samples into what players take.
//
//	URL, path -> Open -> Source -> [Resample] -> gain, mix -> Encoder -> chunk
//
// Samples are int32, full scale, two channels interleaved: a 16-bit sample v is
// v<<16, a 24-bit one v<<8. So sources of 16, 24 and 32 bits pass bit-exactly
// as long as no gain and no conversion is asked for, and nothing is dithered:
// the same source always gives the same chunks.
//
// Sources are pulled. Nothing here runs ahead of its reader by more than a
// fixed number of bytes, whatever the length of a track. One goroutine at a
// time may use a Source, an Encoder or a Resampler; only Close of a Source may
// be called from any, and makes a waiting Read return.
//
// Left to others: timelines, queues of tracks, and who plays what
// (internal/stream).
package audio
