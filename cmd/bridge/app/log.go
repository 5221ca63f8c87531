package app

import (
	"io"
	"log/slog"
	"os"

	"github.com/lmittmann/tint"
	"golang.org/x/term"
)

// newLogger logs to w; the level may be changed while it runs. On a terminal,
// text is coloured unless NO_COLOR is set.
func newLogger(w io.Writer, c LogConfig, env []string) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	_ = setLevel(level, c.Level) // the configuration was checked
	opts := &slog.HandlerOptions{Level: level}
	switch f, ok := w.(*os.File); {
	case c.Format == "json":
		return slog.New(slog.NewJSONHandler(w, opts)), level
	case ok && term.IsTerminal(int(f.Fd())):
		return slog.New(tint.NewTextHandler(w, &tint.Options{
			Level: level, TimeFormat: "15:04:05.000", NoColor: getenv(env, "NO_COLOR") != "",
		})), level
	default:
		return slog.New(slog.NewTextHandler(w, opts)), level
	}
}

// setLevel sets a level that was validated before; an unknown one is an error.
func setLevel(level *slog.LevelVar, name string) error {
	var l slog.Level
	if err := l.UnmarshalText([]byte(name)); err != nil {
		return err
	}
	level.Set(l)
	return nil
}
