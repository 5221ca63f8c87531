package app

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"resonatebridge/discovery"

	"github.com/spf13/pflag"
)

func scanCommand() command {
	return command{
		name:  "scan",
		short: "lists speakers and servers heard over mDNS",
		long:  "Needs no running bridge and connects to nobody. discovery.interfaces says where it listens.",
		setup: func(fs *pflag.FlagSet) runFunc {
			AddConfigFlags(fs)
			timeout := fs.Duration("timeout", 5*time.Second, "how long to listen, up to 10m")
			asJSON := fs.Bool("json", false, "print JSON")
			return func(ctx context.Context, c *call) error {
				if err := c.noArgs(); err != nil {
					return err
				}
				if *timeout <= 0 || *timeout > 10*time.Minute {
					return usagef("--timeout %v: want more than 0s and at most 10m", *timeout)
				}
				cfg, _, err := c.config()
				if err != nil {
					return err
				}
				log, _ := newLogger(c.Stderr, cfg.Log, c.Env)
				found, err := c.scan(ctx, cfg, *timeout, log)
				if err != nil {
					return err
				}
				if *asJSON {
					enc := json.NewEncoder(c.Stdout)
					enc.SetIndent("", "  ")
					return enc.Encode(found)
				}
				return found.print(c.Stdout, *timeout)
			}
		},
	}
}

// heard is one advertisement.
type heard struct {
	Name    string   `json:"name"`
	URLs    []string `json:"urls"` // best first
	Service string   `json:"service"`
}

// found is what a scan heard, by name.
type found struct {
	Speakers []heard `json:"speakers"`
	Servers  []heard `json:"servers"`

	speakers []discovery.Endpoint // those of Speakers
}

// scan listens for d. Ending ctx ends it with an error.
func (c *call) scan(ctx context.Context, cfg Config, d time.Duration, log *slog.Logger) (*found, error) {
	opts := discovery.MDNSOptions{
		Services:   []string{discovery.ServicePlayer, discovery.ServicePlayerOld, discovery.ServiceServer, discovery.ServiceServerOld},
		Interfaces: cfg.Discovery.Interfaces,
		Log:        log,
	}
	var source discovery.Source
	if c.seams.browse != nil {
		source = c.seams.browse(opts)
	} else {
		source = discovery.NewMDNS(opts)
	}
	byKey := map[string]discovery.Endpoint{}
	listen, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	err := source.Run(listen, func(ev discovery.Event) {
		if ev.Kind == discovery.Withdrawn {
			delete(byKey, ev.Endpoint.Key)
			return
		}
		byKey[ev.Endpoint.Key] = ev.Endpoint
	})
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	out := &found{Speakers: []heard{}, Servers: []heard{}}
	for _, key := range sortedKeys(byKey) {
		e := byKey[key]
		h := heard{Name: e.Name, URLs: e.URLs(), Service: e.Service}
		if e.IsServer() {
			out.Servers = append(out.Servers, h)
		} else {
			out.Speakers = append(out.Speakers, h)
			out.speakers = append(out.speakers, e)
		}
	}
	for _, list := range [][]heard{out.Speakers, out.Servers} {
		slices.SortStableFunc(list, func(a, b heard) int { return cmp.Compare(a.Name, b.Name) })
	}
	return out, nil
}

func (f *found) print(w io.Writer, d time.Duration) error {
	if len(f.Speakers)+len(f.Servers) == 0 {
		_, err := fmt.Fprintf(w, "Nothing was heard in %v. bridge doctor looks for the reason.\n", d)
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, part := range []struct {
		title string
		list  []heard
	}{{"SPEAKER", f.Speakers}, {"SERVER", f.Servers}} {
		if len(part.list) == 0 {
			continue
		}
		fmt.Fprintf(tw, "%s\tADDRESS\tSERVICE\n", part.title)
		for _, h := range part.list {
			row(tw, h.Name, orDash(strings.Join(h.URLs, " ")), h.Service)
		}
	}
	return tw.Flush()
}
