package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"
)

func statusCommand() command {
	return command{
		name:  "status",
		short: "shows the speakers and groups of a running bridge",
		long:  "Asks the broker of the configuration, mqtt://127.0.0.1:1883 if there is none.\nExit status 1 if the bridge is not online.",
		setup: func(fs *pflag.FlagSet) runFunc {
			AddConfigFlags(fs)
			asJSON := fs.Bool("json", false, "print JSON: bridge, devices and groups as published")
			return func(ctx context.Context, c *call) error {
				if err := c.noArgs(); err != nil {
					return err
				}
				r, err := c.remote(ctx)
				if err != nil {
					return err
				}
				h, err := r.house(ctx)
				if err != nil {
					return err
				}
				if *asJSON {
					err = h.printJSON(c.Stdout)
				} else {
					err = h.print(c.Stdout)
				}
				if err == nil && h.state != "online" {
					err = fmt.Errorf("the bridge is %s; this is what was last known", plain(h.state))
				}
				return err
			}
		},
	}
}

// printJSON passes on what the bridge published.
func (h *house) printJSON(w io.Writer) error {
	bridge := map[string]json.RawMessage{}
	if err := json.Unmarshal(h.info, &bridge); err != nil {
		return err
	}
	state, err := json.Marshal(h.state)
	if err != nil {
		return err
	}
	bridge["state"] = state
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(map[string]any{"bridge": bridge, "devices": h.devices, "groups": h.groups})
}

func (h *house) print(w io.Writer) error {
	var info struct {
		Version  string   `json:"version"`
		Problems []string `json:"problems"`
	}
	if err := json.Unmarshal(h.info, &info); err != nil {
		return err
	}
	connected := 0
	for _, p := range h.players {
		if p.Connection == "connected" {
			connected++
		}
	}
	fmt.Fprintf(w, "Bridge %s, version %s, %d of %d speakers connected\n", plain(h.state), plain(orDash(info.Version)), connected, len(h.players))
	for _, p := range info.Problems {
		fmt.Fprintf(w, "! %s\n", plain(p))
	}

	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(h.players) > 0 {
		fmt.Fprintln(tw, "\nSPEAKER\tID\tCONNECTION\tVOLUME\tMUTE\tGROUP\tPLAYBACK\tPROBLEM")
	}
	for _, p := range h.players {
		group := ""
		if p.Group != nil {
			group = p.Group.Option
		}
		row(tw, p.Name, orDash(p.ID), p.Connection, number(p.Volume), onOff(p.Mute), orDash(group), orDash(p.Playback), orDash(p.problem()))
	}
	if len(h.named) > 0 {
		fmt.Fprintln(tw, "\nGROUP\tID\tKIND\tVOLUME\tMUTE\tONLINE\tPLAYBACK\tMEMBERS")
	}
	for _, g := range h.named {
		row(tw, g.Name, g.ID, g.Kind, number(g.Volume), onOff(g.Mute),
			fmt.Sprintf("%d of %d", g.Online, len(g.Members)), orDash(g.Playback), orDash(strings.Join(g.Members, " ")))
	}
	return tw.Flush()
}

func row(w io.Writer, cells ...string) {
	for i := range cells {
		cells[i] = plain(cells[i])
	}
	fmt.Fprintln(w, strings.Join(cells, "\t"))
}

func (p playerEntry) problem() string {
	switch {
	case p.LastError != "":
		return p.LastError
	case p.HeldBy != "":
		return "held by " + p.HeldBy
	}
	return ""
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func number(n *int) string {
	if n == nil {
		return "-"
	}
	return strconv.Itoa(*n)
}

func onOff(b *bool) string {
	switch {
	case b == nil:
		return "-"
	case *b:
		return "on"
	}
	return "off"
}
