package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"resonatebridge/discovery"
	"resonatebridge/mqtt"

	"github.com/spf13/pflag"
)

// Process is what a process gets from outside.
type Process struct {
	Env            []string // NAME=value, as os.Environ gives it
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Version        string // empty: what the Go tool recorded
	Commit         string // empty: what the Go tool recorded

	seams seams
}

// seams let tests stand in for the network. Nil fields mean the real thing.
type seams struct {
	dial      func(mqtt.Options) broker
	browse    func(discovery.MDNSOptions) discovery.Source
	advertise func(context.Context, discovery.AdvertiseOptions) error
	multicast func(interfaces []string) (string, error) // see [multicast]
	listen    time.Duration                             // of the doctor for mDNS; 0: listenTime
}

// advertise announces a service until ctx ends.
func (c *call) advertise(ctx context.Context, o discovery.AdvertiseOptions) error {
	if c.seams.advertise != nil {
		return c.seams.advertise(ctx, o)
	}
	return discovery.Advertise(ctx, o)
}

// Exit codes of [Main].
const (
	ExitOK      = 0
	ExitFailure = 1 // it was tried and failed
	ExitUsage   = 2 // wrong usage or wrong configuration
)

// command is one subcommand.
type command struct {
	name  string
	args  string // placeholders for usage texts
	short string // one line for the list
	long  string // what --help says beyond that; may be empty
	setup func(fs *pflag.FlagSet) runFunc
}

// runFunc does the work of one command, once its flags are parsed.
type runFunc func(ctx context.Context, c *call) error

// call is one invocation of a command.
type call struct {
	Process
	flags *pflag.FlagSet
	args  []string // without flags
}

// config loads the configuration for this call.
func (c *call) config() (Config, Sources, error) {
	return Load(LoadInput{Flags: c.flags, Env: c.Env, OptionsFile: DefaultOptionsFile})
}

// usageError is a wrong invocation.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// errFailed ends a command with [ExitFailure] when it has said why already.
var errFailed = errors.New("failed")

// Main runs the command that args name, without the program's own name, and
// returns the exit code. Without a command it runs the bridge. It blocks until
// the command has ended, which for long ones is when ctx ends.
func Main(ctx context.Context, args []string, p Process) int {
	name, args := split(args)
	if name == "help" {
		return help(args, p)
	}
	all := commands()
	i := slices.IndexFunc(all, func(c command) bool { return c.name == name })
	if i < 0 {
		fmt.Fprintf(p.Stderr, "bridge: unknown command %q%s\n", cut(name), didYouMean(name, all))
		return ExitUsage
	}
	cmd := all[i]

	fs := newFlagSet(cmd)
	run := cmd.setup(fs)
	if err := fs.Parse(shieldNumbers(args)); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			printUsage(p.Stdout, cmd, fs)
			return ExitOK
		}
		return report(p, cmd.name, usagef("%s%s", unshield(err.Error()), flagHint(err, fs)))
	}
	rest := fs.Args()
	for i := range rest {
		rest[i] = unshield(rest[i])
	}
	return report(p, cmd.name, run(ctx, &call{Process: p, flags: fs, args: rest}))
}

// split finds the command's name. Only flags means: run the bridge.
func split(args []string) (name string, rest []string) {
	if len(args) == 0 {
		return "run", nil
	}
	switch first := args[0]; {
	case first == "-h" || first == "--help":
		return "help", args[1:]
	case first == "--version":
		return "version", args[1:]
	case strings.HasPrefix(first, "-"):
		return "run", args
	default:
		return first, args[1:]
	}
}

func newFlagSet(cmd command) *pflag.FlagSet {
	fs := pflag.NewFlagSet(cmd.name, pflag.ContinueOnError)
	fs.SortFlags = false
	fs.SetOutput(io.Discard) // errors and usage are printed here, once
	fs.Usage = func() {}
	return fs
}

// report says what went wrong and turns it into an exit code.
func report(p Process, name string, err error) int {
	var usage *usageError
	var config *ConfigError
	switch {
	case err == nil:
		return ExitOK
	case errors.Is(err, errFailed):
		return ExitFailure
	case errors.As(err, &usage):
		fmt.Fprintf(p.Stderr, "bridge %s: %s\nTry: bridge %s --help\n", name, usage.text, name)
		return ExitUsage
	case errors.As(err, &config):
		fmt.Fprintf(p.Stderr, "bridge %s: %v\n", name, config)
		return ExitUsage
	case errors.Is(err, context.Canceled):
		fmt.Fprintf(p.Stderr, "bridge %s: interrupted\n", name)
		return ExitFailure
	default:
		fmt.Fprintf(p.Stderr, "bridge %s: %v\n", name, err)
		return ExitFailure
	}
}

func didYouMean(name string, all []command) string {
	names := []string{"help"}
	for _, c := range all {
		names = append(names, c.name)
	}
	if n := nearest(name, names); n != "" {
		return "; did you mean " + n + "?"
	}
	return "; bridge help lists them"
}

// flagHint names the flag that an unknown one was most likely meant to be.
func flagHint(err error, fs *pflag.FlagSet) string {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return ""
	}
	var names []string
	fs.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if n := nearest(unknown.GetSpecifiedName(), names); n != "" {
		return "; did you mean --" + n + "?"
	}
	return ""
}

// shield marks arguments such as -5, which are numbers here and would be
// flags to the parser.
const shield = "\x00"

func shieldNumbers(args []string) []string {
	number := regexp.MustCompile(`^-[0-9]+$`)
	out := slices.Clone(args)
	for i, a := range out {
		if number.MatchString(a) {
			out[i] = shield + a
		}
	}
	return out
}

func unshield(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, shield, ""), `\x00`, "")
}

func help(args []string, p Process) int {
	all := commands()
	if len(args) > 0 {
		for _, c := range all {
			if c.name == args[0] {
				fs := newFlagSet(c)
				c.setup(fs)
				printUsage(p.Stdout, c, fs)
				return ExitOK
			}
		}
		fmt.Fprintf(p.Stderr, "bridge: unknown command %q%s\n", cut(args[0]), didYouMean(args[0], all))
		return ExitUsage
	}
	fmt.Fprint(p.Stdout, "Resonate Bridge makes Sendspin speakers part of a home, over MQTT.\n\nUsage: bridge [COMMAND] [flags]\n\n")
	w := tabwriter.NewWriter(p.Stdout, 0, 0, 3, ' ', 0)
	for _, c := range all {
		fmt.Fprintf(w, "  %s\t%s\n", strings.TrimSpace(c.name+" "+c.args), c.short)
	}
	w.Flush()
	fmt.Fprint(p.Stdout, `
Without a command it runs the bridge. No configuration is needed to start.
"bridge COMMAND --help" explains a command and its flags.

Every key of the configuration is also an environment variable:
mqtt.url is RESONATE_MQTT_URL. Secrets can be read from files:
RESONATE_MQTT_PASSWORD_FILE.
`)
	return ExitOK
}

func printUsage(w io.Writer, cmd command, fs *pflag.FlagSet) {
	fmt.Fprintf(w, "Usage: bridge %s [flags]\n\n%s.\n", strings.TrimSpace(cmd.name+" "+cmd.args), upperFirst(cmd.short))
	if cmd.long != "" {
		fmt.Fprintf(w, "\n%s\n", strings.TrimSpace(cmd.long))
	}
	if usages := fs.FlagUsages(); usages != "" {
		fmt.Fprintf(w, "\nFlags:\n%s", usages)
	}
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// noArgs is the error of a command that takes no arguments, if it got some.
func (c *call) noArgs() error {
	if len(c.args) > 0 {
		return usagef("unexpected argument %q", cut(c.args[0]))
	}
	return nil
}

// getenv looks name up in env; empty counts as unset.
func getenv(env []string, name string) string {
	for _, entry := range env {
		if k, v, ok := strings.Cut(entry, "="); ok && k == name {
			return v
		}
	}
	return ""
}
