package resonate

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/time/rate"

	"resonatebridge/resonate/internal/session"
	"resonatebridge/resonate/pairing"
)

// keys are the pairing records. Handshakes look them up, so it is safe for
// concurrent use.
type keys struct {
	store   *store
	writing chan struct{} // holds one while the file is written, so that writes are in the order of the changes

	mu     sync.Mutex
	book   *pairing.Book
	stale  bool                                 // the file has what the book has no more
	coming map[pairing.PublicKey]pairing.Record // in the file, or nearly; no handshake uses them yet
}

// get is the record of a client id.
func (k *keys) get(id string) (pairing.Record, bool) {
	peer, err := pairing.ParseID(id)
	if err != nil {
		return pairing.Record{}, false // a plaintext client, as it names itself
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.book.Get(peer)
}

// put writes a record to the disk, where the speaker is not told of it yet: the
// one before holds until accept, and again after discard.
func (k *keys) put(r pairing.Record) error {
	k.writing <- struct{}{}
	defer func() { <-k.writing }()
	k.mu.Lock()
	if k.coming == nil {
		k.coming = make(map[pairing.PublicKey]pairing.Record)
	}
	k.coming[r.Peer] = r
	k.mu.Unlock()
	err := k.write()
	if err != nil {
		k.withdraw(r)
	}
	return err
}

// accept makes a record that was put the one that holds.
func (k *keys) accept(r pairing.Record) {
	k.withdraw(r)
	k.mu.Lock()
	defer k.mu.Unlock()
	_ = k.book.Put(r, nil) // a server's book has no end
}

// discard takes back a record that was put; save takes it from the file.
func (k *keys) discard(r pairing.Record) {
	k.withdraw(r)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stale = true
}

// close takes from the file what was put and neither accepted nor discarded,
// since nobody tells the speaker any more, and what could not be saved before.
// If it fails, it is as after a crash.
func (k *keys) close() error {
	k.mu.Lock()
	stale := k.stale || len(k.coming) > 0
	clear(k.coming)
	k.mu.Unlock()
	if !stale {
		return nil
	}
	return k.save()
}

// withdraw forgets that r is coming, unless another one is by now.
func (k *keys) withdraw(r pairing.Record) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.coming[r.Peer].PSK.Equal(r.PSK) {
		delete(k.coming, r.Peer)
	}
}

// remove drops the record of a client id at once and reports whether there was
// one; save makes it last.
func (k *keys) remove(id string) bool {
	peer, err := pairing.ParseID(id)
	if err != nil {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	removed := k.book.Remove(peer)
	k.stale = k.stale || removed
	return removed
}

// save writes what remove and discard left.
func (k *keys) save() error {
	k.writing <- struct{}{}
	defer func() { <-k.writing }()
	return k.write()
}

// write writes the book; writing is taken.
func (k *keys) write() error {
	if k.store.dir == "" {
		return nil
	}
	k.mu.Lock()
	stale := k.stale
	k.stale = false
	book := k.book.Clone()
	for _, r := range k.coming {
		_ = book.Put(r, nil) // a server's book has no end
	}
	k.mu.Unlock()
	data, err := book.EncodeSecret()
	defer clear(data)
	if err == nil {
		err = k.store.replace(filepath.Join(k.store.dir, pairingsFile), data)
	}
	if err != nil && stale {
		k.mu.Lock()
		k.stale = true
		k.mu.Unlock()
	}
	return err
}

// pairings reads the records. What is damaged is set aside, and problem says
// so: those speakers have to be paired again, or the file has to be mended.
func (s *store) pairings() (book *pairing.Book, problem string, err error) {
	if s.dir == "" {
		return new(pairing.Book), "", nil
	}
	path := filepath.Join(s.dir, pairingsFile)
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return new(pairing.Book), "", nil
	case err != nil:
		return nil, "", fmt.Errorf("data directory: %w; make it readable for this user or set data_dir", err)
	}
	defer clear(data)
	if book, err = pairing.ParseBook(data); err != nil {
		problem = pairingsFile + " is damaged and was set aside in the data directory: mend it and put it back, or pair the speakers again"
		return new(pairing.Book), problem, s.setAside(path, err)
	}
	if err := protect(path); err != nil {
		s.log.Warn("others may read the pairing keys", slog.String("file", path), slog.Any("err", err))
	}
	return book, "", nil
}

// What one address may make the server compute: handshakes of clients that
// dial in. A real speaker needs one per connection.
const (
	handshakeRate  = 4   // per second
	handshakeBurst = 256 // a herd behind one address
	networkShare   = 16  // so many times as much for all of an IPv6 /64, of which one host may have every address
	strangersMax   = 1024
)

// strangers bounds the handshakes of each address and IPv6 network.
type strangers struct {
	mu sync.Mutex
	by map[netip.Prefix]*rate.Limiter
}

// allow takes one handshake of an address; false: it, or its network, had too
// many. An address alone never uses up what its network has.
func (s *strangers) allow(from net.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, err := netip.ParseAddrPort(from.String())
	if err != nil { // all whose address is unknown are one
		return s.limiter(netip.Prefix{}, 1).Allow()
	}
	ip := a.Addr().Unmap().WithZone("")
	if !s.limiter(netip.PrefixFrom(ip, ip.BitLen()), 1).Allow() {
		return false
	}
	if ip.Is4() {
		return true
	}
	network, _ := ip.Prefix(64)
	return s.limiter(network, networkShare).Allow()
}

// limiter is that of who. Beyond strangersMax of them, the rest is one.
func (s *strangers) limiter(who netip.Prefix, share int) *rate.Limiter {
	if l := s.by[who]; l != nil {
		return l
	}
	if len(s.by) >= strangersMax {
		for k, x := range s.by { // who asked for nothing of late is forgotten
			if x.Tokens() >= float64(x.Burst()) {
				delete(s.by, k)
			}
		}
	}
	if len(s.by) >= strangersMax {
		who, share = netip.Prefix{}, 1
		if l := s.by[who]; l != nil {
			return l
		}
	}
	if s.by == nil {
		s.by = make(map[netip.Prefix]*rate.Limiter)
	}
	l := rate.NewLimiter(rate.Limit(handshakeRate*share), handshakeBurst*share)
	s.by[who] = l
	return l
}

// choose picks the key for a client that begins an encrypted connection from an
// address; nil: we dialled it.
func (s *Server) choose(client pairing.PublicKey, from net.Addr) (pairing.Credential, error) {
	switch {
	case from != nil && !s.strangers.allow(from):
		return pairing.Credential{}, fmt.Errorf("%w: too many handshakes from %s", session.ErrTurnedAway, from)
	case client == s.key.Public():
		return pairing.Credential{}, fmt.Errorf("%w: it uses our own identity", session.ErrTurnedAway)
	}
	if r, ok := s.keys.get(client.ID()); ok {
		return pairing.Credential{PSK: r.PSK, Category: pairing.LongTerm}, nil
	}
	return pairing.Sentinel(), nil
}
