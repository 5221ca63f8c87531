package app

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

func playCommand() command {
	return setCommand(command{
		name: "play", args: "TARGET URL", short: "plays a URL on a speaker or group",
		long: `TARGET is the id or the name of a speaker or group; bridge status lists them.
URL is http:// or https://, a radio station or a playlist too, a file that the
bridge may read, or tone: for a test tone. Returns when it plays.`,
	}, 2, false, func(_ *house, args []string) (map[string]any, error) {
		return map[string]any{"play_url": args[0]}, checkMedia(args[0])
	}, func(t target, data map[string]any, args []string) string {
		return fmt.Sprintf("%s: playing %s", plain(t.name), plain(args[0]))
	})
}

func stopCommand() command {
	return setCommand(command{
		name: "stop", args: "TARGET", short: "stops what plays on a speaker or group",
		long: "TARGET is the id or the name of a speaker or group; a speaker stops its whole group.",
	}, 1, false, func(*house, []string) (map[string]any, error) {
		return map[string]any{"stop": true}, nil
	}, func(t target, _ map[string]any, _ []string) string {
		return plain(t.name) + ": stopped"
	})
}

func announceCommand() command {
	return command{
		name: "announce", args: "TARGET... URL", short: "plays a URL over whatever plays, on all targets at once",
		long: `Each TARGET is the id or the name of a speaker or group; bridge status lists
them. Music goes on below it, and volumes come back afterwards.`,
		setup: func(fs *pflag.FlagSet) runFunc {
			AddConfigFlags(fs)
			volume := fs.Int("volume", 0, "0 to 100 (default: the announcement volume of each speaker)")
			return func(ctx context.Context, c *call) error {
				if !fs.Changed("volume") {
					volume = nil
				}
				return announceMain(ctx, c, volume)
			}
		},
	}
}

func announceMain(ctx context.Context, c *call, volume *int) error {
	if len(c.args) < 2 {
		return usagef("want TARGET... URL, got %d arguments", len(c.args))
	}
	url := c.args[len(c.args)-1]
	if err := checkMedia(url); err != nil {
		return err
	}
	if volume != nil && (*volume < 0 || *volume > 100) {
		return usagef("--volume %d: want 0 to 100", *volume)
	}
	r, h, err := c.bridge(ctx)
	if err != nil {
		return err
	}
	var ids, names []string
	for _, word := range c.args[:len(c.args)-1] {
		t, err := h.find(word, append(h.playerTargets(), h.groupTargets()...))
		if err != nil {
			return err
		}
		ids, names = append(ids, t.id), append(names, plain(t.name))
	}
	fields := map[string]any{"targets": ids, "url": url}
	if volume != nil {
		fields["volume"] = *volume
	}
	p := c.progress("loading " + plain(url))
	res, err := r.request(ctx, "announce", fields)
	p.end()
	if err != nil {
		return err
	}
	who := strings.Join(names, ", ")
	if res.Data["queued"] == true {
		_, err = fmt.Fprintf(c.Stdout, "%s: waits for another announcement\n", who)
		return err
	}
	if heard, ok := res.Data["players"].([]any); ok && len(heard) > 0 {
		who = fmt.Sprintf("%s (%d connected)", who, len(heard))
	}
	if _, err := fmt.Fprintf(c.Stdout, "%s: announcing %s\n", who, plain(url)); err != nil {
		return err
	}
	// On a terminal it stays until it was heard.
	if wait := millis(res.Data["starts_in_ms"]) + millis(res.Data["duration_ms"]); c.live() && wait > 0 {
		p := c.progress("announcing")
		defer p.end()
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	return nil
}

func millis(v any) time.Duration {
	ms, _ := v.(float64)
	return time.Duration(ms) * time.Millisecond
}

// checkMedia finds wrong words before anybody is asked.
func checkMedia(url string) error {
	if url == "" || strings.ContainsFunc(url, isControl) {
		return usagef("URL %q: want an address such as http://nas/song.mp3", cut(url))
	}
	return nil
}

// live reports whether somebody watches standard error.
func (c *call) live() bool { return isTerminal(c.Stderr) }

// progress shows on a terminal that something takes its time.
type progress struct {
	stop chan struct{}
	done chan struct{}
}

// progress shows text and how long it has taken, until end. It shows nothing
// where nobody watches.
func (c *call) progress(text string) *progress {
	p := &progress{stop: make(chan struct{}), done: make(chan struct{})}
	if !c.live() {
		close(p.done)
		return p
	}
	go func() { // owner: the caller, who calls end
		defer close(p.done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		began := time.Now()
		for {
			select {
			case <-tick.C:
				fmt.Fprintf(c.Stderr, "\r%s ... %.1f s", text, time.Since(began).Seconds())
			case <-p.stop:
				fmt.Fprint(c.Stderr, "\r\x1b[K")
				return
			}
		}
	}()
	return p
}

func (p *progress) end() {
	close(p.stop)
	<-p.done
}
