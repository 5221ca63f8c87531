package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
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
		fmt.Fprintln(tw, "\nSPEAKER\tID\tCONNECTION\tTRUST\tVOLUME\tMUTE\tGROUP\tPLAYBACK\tPROBLEM")
	}
	for _, p := range h.players {
		group := ""
		if p.Group != nil {
			group = p.Group.Option
		}
		row(tw, p.Name, orDash(p.ID), p.Connection, orDash(p.Trust), number(p.Volume), onOff(p.Mute), orDash(group), orDash(p.Playback), orDash(p.problem()))
	}
	for i, todo := range h.todo() {
		if i == 0 {
			fmt.Fprintln(tw, "\nTO DO")
		}
		fmt.Fprintln(tw, plain(todo))
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

// todo is one sentence for each speaker that waits for a person.
func (h *house) todo() []string {
	var out []string
	for _, p := range h.players {
		if text := p.todo(h); text != "" {
			out = append(out, text)
		}
	}
	return out
}

// todo says what the speaker waits for and the one command that helps; "" if it
// waits for nobody.
func (p playerEntry) todo(h *house) string {
	pair := "bridge pair " + h.word(p)
	switch {
	case p.ID == "":
	case p.Pairing.live():
		return fmt.Sprintf("%s is being paired (%s): %s", p.Name, orDash(p.Pairing.Prompt), pair)
	case p.Trust == "downgraded":
		return fmt.Sprintf("%s was paired and speaks unencrypted now; update it, or forget the pairing: %s --forget", p.Name, pair)
	case p.Trust == "mismatch":
		return fmt.Sprintf("%s no longer knows this bridge; pair it again: %s", p.Name, pair)
	case p.Connection == "pairing_required":
		return fmt.Sprintf("%s wants to be paired: %s", p.Name, pair)
	case p.Connection == "approval_required" && len(p.Pairing.Methods) == 0:
		return fmt.Sprintf("%s can't be paired and is not approved: %s --approve", p.Name, pair)
	case p.Connection == "approval_required":
		return fmt.Sprintf("%s is neither paired nor approved: %s", p.Name, pair)
	}
	return ""
}

// word names p to a command: by its name, where that is one word and only its.
func (h *house) word(p playerEntry) string {
	if t, err := h.find(p.Name, h.playerTargets()); err == nil && t.id == p.ID && regexp.MustCompile(`^[\w.-]+$`).MatchString(p.Name) {
		return p.Name
	}
	return p.ID
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
