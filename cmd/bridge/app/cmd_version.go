package app

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/spf13/pflag"
)

// Build is what a build says about itself.
type Build struct {
	Version string // a release such as "1.2.3", else "devel"
	Commit  string // empty if unknown; ends in "+dirty" when files had been changed
	Go      string // such as "go1.26.0"
}

// buildOf prefers what the build set in p over what the Go tool recorded.
func buildOf(p Process) Build {
	v := Build{Version: p.Version, Commit: p.Commit, Go: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v.orDevel()
	}
	v.Go = info.GoVersion
	if v.Version == "" && info.Main.Version != "(devel)" {
		v.Version = info.Main.Version
	}
	if v.Commit == "" {
		dirty := false
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Commit = s.Value
			case "vcs.modified":
				dirty = s.Value == "true"
			}
		}
		if dirty && v.Commit != "" {
			v.Commit += "+dirty"
		}
	}
	return v.orDevel()
}

func (v Build) orDevel() Build {
	if v.Version == "" {
		v.Version = "devel"
	}
	return v
}

// String is one line for people.
func (v Build) String() string {
	commit := v.Commit
	if commit == "" {
		commit = "unknown"
	}
	return fmt.Sprintf("resonate bridge %s, commit %s, %s", v.Version, commit, v.Go)
}

func versionCommand() command {
	return command{
		name:  "version",
		short: "prints version, commit and Go version",
		setup: func(*pflag.FlagSet) runFunc {
			return func(_ context.Context, c *call) error {
				if err := c.noArgs(); err != nil {
					return err
				}
				_, err := fmt.Fprintln(c.Stdout, buildOf(c.Process))
				return err
			}
		},
	}
}
