package app

import (
	"fmt"
	"log/slog"
)

const masked = "******"

// Secret is a text that is never printed: every way of formatting it gives a
// mask, or nothing when it is empty. [Secret.Reveal] gives the text.
type Secret string

// Reveal returns the text itself, for the one place that has to send it.
func (s Secret) Reveal() string { return string(s) }

// String is the mask, empty for an empty secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return masked
}

// Format masks every verb; without it %x and %q would print the text.
func (s Secret) Format(f fmt.State, verb rune) {
	if verb == 'q' || f.Flag('#') {
		fmt.Fprintf(f, "%q", s.String())
		return
	}
	fmt.Fprint(f, s.String())
}

// LogValue is the mask.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is the mask; it serves encoding/json and YAML as well.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
