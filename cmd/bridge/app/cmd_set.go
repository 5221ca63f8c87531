package app

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// setCommand is a command that changes one player or group.
//
// parse turns the arguments after the first into fields of the set topic; it
// gets what the bridge knows, so that it can look names up.
func setCommand(c command, args int, playersOnly bool, parse func(h *house, args []string) (map[string]any, error), done func(t target, data map[string]any, args []string) string) command {
	c.setup = func(fs *pflag.FlagSet) runFunc {
		AddConfigFlags(fs)
		return func(ctx context.Context, c2 *call) error {
			if len(c2.args) != args {
				return usagef("want %s, got %d arguments", c.args, len(c2.args))
			}
			// Wrong words are found before anybody is asked.
			if _, err := parse(nil, c2.args[1:]); err != nil {
				return err
			}
			r, h, err := c2.bridge(ctx)
			if err != nil {
				return err
			}
			all := h.playerTargets()
			if !playersOnly {
				all = append(all, h.groupTargets()...)
			}
			t, err := h.find(c2.args[0], all)
			if err != nil {
				return err
			}
			fields, err := parse(h, c2.args[1:])
			if err != nil {
				return err
			}
			p := c2.progress(plain(t.name))
			res, err := r.set(ctx, t, fields)
			p.end()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c2.Stdout, done(t, res.Data, c2.args[1:]))
			return err
		}
	}
	return c
}

func volumeCommand() command {
	return setCommand(command{
		name: "volume", args: "PLAYER N|+N|-N", short: "sets the volume of a speaker or group, 0 to 100, or changes it",
		long: "PLAYER is the id or the name of a speaker or group; bridge status lists them.",
	}, 2, false, func(_ *house, args []string) (map[string]any, error) {
		v, err := parseVolume(args[0])
		return map[string]any{"volume": v}, err
	}, func(t target, data map[string]any, args []string) string {
		if v, ok := data["volume"].(float64); ok {
			return fmt.Sprintf("%s: volume %d", plain(t.name), int(v))
		}
		return fmt.Sprintf("%s: volume %s", plain(t.name), args[0])
	})
}

// parseVolume gives a number for an absolute volume and a text with its sign
// for a change, as the set topic takes them.
func parseVolume(s string) (any, error) {
	if !regexp.MustCompile(`^[+-]?[0-9]{1,3}$`).MatchString(s) {
		return nil, usagef("volume %q: want 0 to 100, or a change such as +5 or -5", cut(s))
	}
	n, err := strconv.Atoi(strings.TrimLeft(s, "+-"))
	if err != nil || n > 100 {
		return nil, usagef("volume %q: want at most 100", cut(s))
	}
	if s[0] == '+' || s[0] == '-' {
		return s, nil
	}
	return n, nil
}

func muteCommand() command {
	return setCommand(command{
		name: "mute", args: "PLAYER on|off|toggle", short: "mutes a speaker or group, or ends that",
		long: "PLAYER is the id or the name of a speaker or group; bridge status lists them.",
	}, 2, false, func(_ *house, args []string) (map[string]any, error) {
		switch strings.ToLower(args[0]) {
		case "on":
			return map[string]any{"mute": true}, nil
		case "off":
			return map[string]any{"mute": false}, nil
		case "toggle":
			return map[string]any{"mute": "TOGGLE"}, nil
		}
		return nil, usagef("mute %q: want on, off or toggle", cut(args[0]))
	}, func(t target, data map[string]any, args []string) string {
		if on, ok := data["mute"].(bool); ok {
			return fmt.Sprintf("%s: mute %s", plain(t.name), onOff(&on))
		}
		return fmt.Sprintf("%s: mute %s", plain(t.name), strings.ToLower(args[0]))
	})
}

func groupCommand() command {
	return setCommand(command{
		name: "group", args: "PLAYER TARGET|solo", short: "moves a speaker into a group, to another speaker, or out of its group",
		long: "PLAYER is the id or the name of a speaker, TARGET that of a speaker or group; bridge status lists them.\nA group that is called solo is meant by its id.",
	}, 2, true, func(h *house, args []string) (map[string]any, error) {
		if strings.EqualFold(args[0], "solo") {
			return map[string]any{"unjoin": true}, nil
		}
		if h == nil {
			return nil, nil
		}
		t, err := h.find(args[0], append(h.playerTargets(), h.groupTargets()...))
		return map[string]any{"join": t.id}, err
	}, func(t target, _ map[string]any, args []string) string {
		if strings.EqualFold(args[0], "solo") {
			return plain(t.name) + ": on its own"
		}
		return fmt.Sprintf("%s: with %s", plain(t.name), plain(args[0]))
	})
}
