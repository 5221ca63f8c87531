package timesync

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestBurst drives a Burst in virtual time, as a client does, against a server
// that is 5 s ahead.
func TestBurst(t *testing.T) {
	const lost = -time.Second
	const ms, us = time.Millisecond, time.Microsecond
	eight := func(at time.Duration, every time.Duration) []time.Duration {
		out := make([]time.Duration, 8)
		for i := range out {
			out[i] = at + time.Duration(i)*every
		}
		return out
	}
	thirty := func(burst func(i int) []time.Duration) (out []time.Duration) {
		for i := range 30 {
			out = append(out, burst(i)...)
		}
		return out
	}
	for _, tc := range []struct {
		name string
		// delay is the time that the reply to probe n takes, or lost.
		delay func(n int) time.Duration
		until time.Duration
		sent  []time.Duration // when probes are sent
		fed   []time.Duration // when samples reach the filter
		err   time.Duration   // of the last model
	}{
		{
			name:  "first at once, four soon, then every ten seconds",
			delay: func(int) time.Duration { return 400 * us },
			until: 25 * time.Second,
			sent:  slices.Concat(eight(0, 400*us), eight(1000*ms, 400*us), eight(2000*ms, 400*us), eight(3000*ms, 400*us), eight(4000*ms, 400*us), eight(14000*ms, 400*us), eight(24000*ms, 400*us)),
			fed:   []time.Duration{3200 * us, 1003200 * us, 2003200 * us, 3003200 * us, 4003200 * us, 14003200 * us, 24003200 * us},
			err:   88 * us, // the end of a line through seven samples of 100 µs each
		},
		{
			name:  "thirty soon where the network is bad",
			delay: func(int) time.Duration { return 40 * ms },
			until: 50 * time.Second,
			sent:  slices.Concat(thirty(func(i int) []time.Duration { return eight(time.Duration(i)*time.Second, 40*ms) }), eight(39*time.Second, 40*ms), eight(49*time.Second, 40*ms)),
			fed: append(thirty(func(i int) []time.Duration { return []time.Duration{time.Duration(i)*time.Second + 320*ms} }),
				39320*ms, 49320*ms),
			err: 5610 * us, // ten seconds after thirty in thirty seconds, of 10 ms each
		},
		{
			name: "the best of eight is fed",
			delay: func(n int) time.Duration {
				if n == 5 {
					return 2 * ms
				}
				return 10 * ms
			},
			until: 999 * ms,
			sent:  append(eight(0, 10*ms)[:6], 52*ms, 62*ms),
			fed:   []time.Duration{72 * ms},
			err:   500 * us,
		},
		{
			name: "a lost probe is given up after two seconds",
			delay: func(n int) time.Duration {
				if n == 1 {
					return lost
				}
				return 10 * ms
			},
			until: 2045 * ms,
			sent:  []time.Duration{0, 10 * ms, 2010 * ms, 2020 * ms, 2030 * ms, 2040 * ms},
		},
		{
			name: "a burst that overran is followed at once",
			delay: func(n int) time.Duration {
				if n == 7 {
					return lost
				}
				return 10 * ms
			},
			until: 2095 * ms,
			sent:  append(eight(0, 10*ms), eight(2070*ms, 10*ms)[:3]...),
			fed:   []time.Duration{2070 * ms},
			err:   2500 * us,
		},
		{
			name:  "without answers nothing is fed and one probe is out at a time",
			delay: func(int) time.Duration { return lost },
			until: 19 * time.Second,
			sent:  append(eight(0, 2*time.Second), 16*time.Second, 18*time.Second),
		},
		{
			name: "a reply after two seconds is dropped",
			delay: func(n int) time.Duration {
				if n == 0 {
					return 2005 * ms
				}
				return 10 * ms
			},
			until: 2075 * ms,
			sent:  append([]time.Duration{0}, eight(2000*ms, 10*ms)...),
			fed:   []time.Duration{2070 * ms},
			err:   2500 * us,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), tc.until)
				defer cancel()
				begin, clock := time.Now(), NewClock()
				var sent, fed []time.Duration
				replies := make(chan Sample, 8)
				filter := NewFilter(Config{})
				burst := NewBurst(filter)
				for samples := 0; ctx.Err() == nil; {
					now := clock.Now()
					send, wait := burst.Next(now)
					if m := filter.Model(); m != nil && m.Samples() > samples {
						samples = m.Samples()
						fed = append(fed, time.Since(begin))
					}
					if send {
						if d := tc.delay(len(sent)); d != lost {
							time.AfterFunc(d, func() {
								at := now + micros(d/2) + 5_000_000
								replies <- Sample{now, at, at, clock.Now()}
							})
						}
						sent = append(sent, time.Since(begin))
					}
					if wait <= 0 {
						t.Fatalf("%v after the start Next says to wait %v", time.Since(begin), wait)
					}
					select {
					case s := <-replies:
						burst.Reply(s)
					case <-time.After(wait):
					case <-ctx.Done():
					}
				}
				if got := sent; !slices.Equal(got, tc.sent) {
					t.Errorf("probes sent at %v, want %v", got, tc.sent)
				}
				if got := fed; !slices.Equal(got, tc.fed) {
					t.Errorf("samples fed at %v, want %v", got, tc.fed)
				}
				m := filter.Model()
				if m == nil {
					return
				}
				if got := m.Error(); got != tc.err {
					t.Errorf("Error() = %v, want %v", got, tc.err)
				}
				if got, want := m.Server(7), Micros(5_000_007); got != want {
					t.Errorf("Server(7) = %d, want %d", got, want)
				}
			})
		})
	}
}

func TestBurstReply(t *testing.T) {
	good := Sample{1000, 2000, 2000, 1100}
	for _, tc := range []struct {
		name string
		do   func(b *Burst) bool
		want bool
	}{
		{"before any probe", func(b *Burst) bool { return b.Reply(Sample{}) }, false},
		{"echo of the probe", func(b *Burst) bool { b.Next(1000); return b.Reply(good) }, true},
		{"echo of something else", func(b *Burst) bool { b.Next(999); return b.Reply(good) }, false},
		{"a second reply to one probe", func(b *Burst) bool { b.Next(1000); b.Reply(good); return b.Reply(good) }, false},
		{"a probe that was given up", func(b *Burst) bool { b.Next(1000); b.Next(2_001_000); return b.Reply(good) }, false},
		{"a probe of the session before", func(b *Burst) bool {
			NewBurst(b.filter).Next(1000)
			b.Next(1001)
			return b.Reply(good)
		}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.do(NewBurst(NewFilter(Config{}))); got != tc.want {
				t.Errorf("Reply matched: %v, want %v", got, tc.want)
			}
		})
	}
}

// TestBurstFeedsNoImpossibleSample: a negative MaxError would win each burst.
func TestBurstFeedsNoImpossibleSample(t *testing.T) {
	run := func(impossible func(i int) bool) *Model {
		f := NewFilter(Config{})
		b := NewBurst(f)
		for i := range 8 {
			now := Micros(1000 * (i + 1))
			if send, _ := b.Next(now); !send {
				t.Fatalf("probe %d is not sent", i)
			}
			s := Sample{now, now + 50_100, now + 50_100, now + 200}
			if impossible(i) {
				s.ServerTransmitted += 900_000
			}
			if !b.Reply(s) {
				t.Fatalf("reply %d is not matched", i)
			}
		}
		return f.Model()
	}
	m := run(func(i int) bool { return i != 3 })
	if m == nil {
		t.Fatal("one possible sample among eight was not fed")
	}
	if got, want := m.Server(0), Micros(50_000); got != want {
		t.Errorf("Server(0) = %d, want %d", got, want)
	}
	if got := run(func(int) bool { return true }); got != nil {
		t.Errorf("impossible samples were fed: %+v, want none", ask(got))
	}
}
