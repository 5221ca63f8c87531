package stream

// ledger counts what a player has to hold (spec: player role, buffer
// accounting): each chunk in full while its transmission is unfinished or its
// end lies in the future.
type ledger struct {
	sent []entry // oldest first
}

type entry struct {
	number uint64 // of the chunk, counted by the sink
	end    micros // when its last sample leaves the port, without output delay
	size   int    // bytes, with the header
}

// add notes that a chunk was handed to the sink.
func (l *ledger) add(e entry) { l.sent = append(l.sent, e) }

// reset is for sending stream/clear and stream/end.
func (l *ledger) reset() { l.sent = l.sent[:0] }

// outstanding is how many bytes count now. written is how many chunks left the
// sink; delay is the player's output delay, which takes what it holds earlier.
// free is when the next of them stops counting, 0 if none does by time alone.
func (l *ledger) outstanding(now, delay micros, written uint64) (bytes int, free micros) {
	keep := l.sent[:0]
	for _, e := range l.sent {
		if e.end <= now && e.number <= written {
			continue // whatever the delay becomes, it counts no more
		}
		keep = append(keep, e)
		done := e.end - delay
		if done <= now && e.number <= written {
			continue
		}
		bytes += e.size
		if done > now && (free == 0 || done < free) {
			free = done
		}
	}
	l.sent = keep
	return bytes, free
}
