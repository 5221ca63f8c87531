package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"
)

// maxInbound is how many servers may be connected or knocking at a time. A
// player has one; the rest is for those that are being turned away.
const maxInbound = 32

// options are those of the player's sessions while ctx lives.
func (p *Player) options(ctx context.Context) Options {
	return Options{
		Sealing: p.sealing(ctx),
		Hello:   p.hello,
		Dialect: p.opts.Dialect,
		Clock:   p.opts.Clock,
		Log:     p.opts.Log,
		NetDial: p.opts.NetDial,
		OnClock: func(*Session) {
			wake(p.clocked)
			p.touch()
		},
		OnMessage: func(s *Session, m protocol.ServerMessage) {
			for {
				gate := p.gate.Load()
				if gate == nil {
					break
				}
				select {
				case <-*gate:
				case <-s.Closing():
					return
				}
			}
			p.report(ctx, s, event{session: s, message: m})
		},
	}
}

// report tells the owner something of s, unless that ends.
func (p *Player) report(ctx context.Context, s *Session, e event) {
	select {
	case p.inbox <- e:
	case <-s.Closing():
	case <-ctx.Done():
	}
}

// sealing is that of an encrypted dialect, else nil. Who asks for the keys
// comes after all that the owner was told before.
func (p *Player) sealing(ctx context.Context) *Sealing {
	if p.opts.Memory == nil {
		return nil
	}
	return &Sealing{
		Identity: p.opts.Memory.identity,
		AESGCM:   p.opts.AESGCM,
		Keys: func(*Session) Keys {
			answer := make(chan Keys, 1)
			p.tell(ctx, event{keys: answer})
			select {
			case keys := <-answer:
				return keys
			case <-ctx.Done():
				return nil
			}
		},
		OnKeys: func(s *Session, ch Channel) { p.report(ctx, s, event{session: s, channel: &ch}) },
	}
}

// keep holds on to s until it is done, and says goodbye when ctx ends before.
func (p *Player) keep(ctx context.Context, s *Session) {
	select {
	case <-s.Done():
		p.tell(ctx, event{session: s, gone: true})
	case <-ctx.Done():
		s.Close(p.opts.Goodbye)
		<-s.Done()
	}
}

// serve takes servers that dial us until ctx ends, and then sees them off.
func (p *Player) serve(ctx context.Context, ln net.Listener) error {
	outer := ctx
	ctx, end := context.WithCancel(outer)
	defer end()
	slots := make(chan struct{}, maxInbound)
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+p.path, func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
		default:
			http.Error(w, "too many servers", http.StatusServiceUnavailable)
			return
		}
		defer func() { <-slots }()
		s, err := Accept(w, r, p.options(ctx))
		if err != nil {
			p.opts.Log.Debug("server did not get in", slog.Any("err", err))
			return
		}
		p.keep(ctx, s)
	})
	srv := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: dialTimeout / 2,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(p.opts.Log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	err := srv.Serve(ln)
	end()
	// Close knows nothing of upgraded connections, but each of them holds a
	// slot until its session is done. With all slots in hand nobody is left,
	// and who still comes is turned away.
	for range maxInbound {
		slots <- struct{}{}
	}
	if outer.Err() != nil {
		return nil
	}
	return fmt.Errorf("player: serve: %w", err)
}

// dial keeps a session with the configured server until ctx ends.
func (p *Player) dial(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		begun := p.opts.Clock.Now()
		s, err := Dial(ctx, p.opts.Server, p.options(ctx))
		if err != nil {
			p.tell(ctx, event{err: err})
			p.wait(ctx, backoff(failures))
			failures++
			continue
		}
		select {
		case <-p.connect: // asked for meanwhile, and done
		default:
		}
		p.keep(ctx, s)
		var left *leaveError
		if errors.As(s.Err(), &left) && left.reason != protocol.GoodbyeRestart {
			p.tell(ctx, event{paused: true})
			p.wait(ctx, -1)
			failures = 0
			continue
		}
		if p.opts.Clock.Now()-begun >= micros(steady) {
			failures = 0
		}
		p.wait(ctx, backoff(failures))
		failures++
	}
}

func (p *Player) tell(ctx context.Context, e event) {
	select {
	case p.inbox <- e:
	case <-ctx.Done():
	}
}

// wait returns after d, never if d is negative, or when Connect is called or
// ctx ends.
func (p *Player) wait(ctx context.Context, d time.Duration) {
	var timer <-chan time.Time
	if d >= 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-timer:
	case <-p.connect:
	case <-ctx.Done():
	}
}

func micros(d time.Duration) timesync.Micros { return timesync.Micros(d / time.Microsecond) }
