// Package stream plays to one group: one timeline, each wire format encoded
// once, every member sent the same chunks under its own limits.
//
//	item ─► deck ─PCM─► timeline blocks ─► rendition (one per format) ─chunks─► member ─► Sink
//	                    │ ▲ announcement                                 └──► member ─► Sink
//	                    └─► scope (one, while somebody looks) ─moments─► viewer ─► Screen
//
// The timeline counts samples. A position becomes a time by one division
// (see [timeline]), so nothing drifts however long it plays, and chunk
// timestamps step by exactly the duration of a chunk.
//
// # What holds
//
//   - A member gets stream/start before its first chunk, chunks with rising
//     timestamps without a gap or an overlap, and stream/end once, at the end.
//     Only a member that cannot keep up misses chunks, whole ones, and those
//     are counted.
//   - A chunk is sent at least the group's send-ahead before it sounds; a late
//     joiner starts at the first chunk that its own send-ahead allows.
//   - Outstanding bytes of a member never exceed its buffer capacity, counted
//     as the protocol says (spec: player role, buffer accounting).
//   - A format that several members use is encoded once.
//   - A seek, a jump and the start of other media clear the stream and re-apply
//     the lead; the natural end of an item does neither.
//   - Pausing keeps what was sent and not heard, and resuming sends it again:
//     no sample is lost or doubled.
//   - What is computed for viewers comes after the audio of each step, and nothing
//     of it is waited for; the bytes that one holds never exceed its buffer.
//
// # Goroutines
//
//	engine  one per Run; owns everything here; waits for its wake-up and a timer only
//	deck    one per item that is open; started and awaited by the engine; blocks on its
//	        source and on its queue of at most deckBlocks blocks
//
// Callers leave operations in a list ([Engine.Do]) and read an immutable
// [Status]; neither waits.
package stream
