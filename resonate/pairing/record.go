package pairing

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"resonatebridge/resonate/protocol"
)

// Record is a completed pairing with one peer: a client's on the server, a
// server's on the client.
type Record struct {
	Peer   PublicKey
	PSK    protocol.PSK
	Method protocol.PairMethod
	Paired time.Time
	Used   time.Time // when a session with it last began; zero: never
}

// Book holds the pairing records of one side. The zero value is empty and ready
// to use. Only [Book.Put] with the result of a pairing and [Book.Remove] change
// who is in it. It is not safe for concurrent use.
type Book struct {
	// Capacity is the most records, 0 for no limit. A client holds at least
	// [LeastCapacity].
	Capacity int

	records map[PublicKey]Record
}

// LeastCapacity is the fewest records that a client can hold (spec: Pairing
// Records).
const LeastCapacity = 5

// ErrFull says that no record could be put aside for a new one, since all are
// in use.
var ErrFull = errors.New("pairing: every record backs an open connection")

// Get is the record of a peer.
func (b *Book) Get(peer PublicKey) (Record, bool) {
	r, ok := b.records[peer]
	return r, ok
}

// Find is the record whose key has this psk_id. Each key is compared in
// constant time.
func (b *Book) Find(pskID string) (Record, bool) {
	for _, r := range b.records {
		if (Credential{PSK: r.PSK}).Is(pskID) {
			return r, true
		}
	}
	return Record{}, false
}

// Put stores a record in place of any other of the same peer. When the book is
// full it puts aside the record that was unused for longest, but none that
// inUse names; inUse may be nil. The error is [ErrFull].
func (b *Book) Put(r Record, inUse func(PublicKey) bool) error {
	if b.records == nil {
		b.records = make(map[PublicKey]Record)
	}
	if _, known := b.records[r.Peer]; !known && b.Capacity > 0 && len(b.records) >= b.Capacity {
		oldest, found := Record{}, false
		for peer, have := range b.records {
			if inUse != nil && inUse(peer) {
				continue
			}
			if !found || have.last().Before(oldest.last()) {
				oldest, found = have, true
			}
		}
		if !found {
			return ErrFull
		}
		delete(b.records, oldest.Peer)
	}
	b.records[r.Peer] = r
	return nil
}

func (r Record) last() time.Time {
	if r.Used.After(r.Paired) {
		return r.Used
	}
	return r.Paired
}

// Touch notes that a session with the peer's record began.
func (b *Book) Touch(peer PublicKey, now time.Time) {
	if r, ok := b.records[peer]; ok {
		r.Used = now
		b.records[peer] = r
	}
}

// Remove drops the record of a peer and reports whether there was one.
func (b *Book) Remove(peer PublicKey) bool {
	_, ok := b.records[peer]
	delete(b.records, peer)
	return ok
}

// Clone is a copy.
func (b *Book) Clone() *Book { return &Book{Capacity: b.Capacity, records: maps.Clone(b.records)} }

// Len is the number of records.
func (b *Book) Len() int { return len(b.records) }

// Peers are those with a record, in the order of their ids.
func (b *Book) Peers() []PublicKey {
	peers := make([]PublicKey, 0, len(b.records))
	for p := range b.records {
		peers = append(peers, p)
	}
	slices.SortFunc(peers, func(a, c PublicKey) int { return slices.Compare(a[:], c[:]) })
	return peers
}

// bookFile is the content of pairings.json.
type bookFile struct {
	Version int          `json:"version"`
	Records []fileRecord `json:"records"`
}

type fileRecord struct {
	Peer   PublicKey           `json:"peer_id"`
	PSK    string              `json:"psk"` // base64url: a secret
	Method protocol.PairMethod `json:"method,omitempty"`
	Paired time.Time           `json:"paired_at,omitzero"`
	Used   time.Time           `json:"used_at,omitzero"`
}

// EncodeSecret is the content of pairings.json, keys included: for a file with
// mode 0600 and for nothing else.
func (b *Book) EncodeSecret() ([]byte, error) {
	f := bookFile{Version: 1, Records: []fileRecord{}}
	for _, peer := range b.Peers() {
		r := b.records[peer]
		key := r.PSK.Bytes()
		f.Records = append(f.Records, fileRecord{
			Peer: r.Peer, PSK: base64.RawURLEncoding.EncodeToString(key),
			Method: r.Method, Paired: r.Paired, Used: r.Used,
		})
		clear(key)
	}
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, errors.New("pairing records: a time that can't be written")
	}
	return append(data, '\n'), nil
}

// ParseBook reads what [Book.EncodeSecret] wrote. The error shows no key.
func ParseBook(data []byte) (*Book, error) {
	var f bookFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, errors.New("pairing records: not the JSON that is expected") // the cause may quote the file
	}
	if f.Version != 1 {
		return nil, fmt.Errorf("pairing records: got version %d, want 1", f.Version)
	}
	b := new(Book)
	for i, r := range f.Records {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(r.PSK)
		if err != nil {
			return nil, fmt.Errorf("pairing records: record %d: the key is not base64url", i+1)
		}
		psk, err := protocol.NewPSK(raw)
		clear(raw)
		if err != nil {
			return nil, fmt.Errorf("pairing records: record %d: %w", i+1, err)
		}
		if _, twice := b.records[r.Peer]; twice {
			return nil, fmt.Errorf("pairing records: record %d: the peer %s has one before", i+1, r.Peer)
		}
		if err := b.Put(Record{Peer: r.Peer, PSK: psk, Method: r.Method, Paired: r.Paired, Used: r.Used}, nil); err != nil {
			return nil, err
		}
	}
	return b, nil
}
