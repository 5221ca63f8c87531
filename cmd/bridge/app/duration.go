package app

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Duration is a time.Duration that is written with its unit: "300ms", "15s",
// "3m". A bare number is refused, because nobody can tell its unit.
type Duration time.Duration

// Std is d for package time.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String is d as time.Duration prints it.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText is d as [Duration.UnmarshalText] reads it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what time.ParseDuration reads, but no number without unit.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	if s == "" {
		return errors.New("is empty: write a number with a unit, such as 15s")
	}
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return fmt.Errorf("has no unit: write %ss for seconds or %sms for milliseconds", s, s)
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return errors.New("is not a duration: write numbers with units, such as 300ms, 15s or 1m30s")
	}
	*d = Duration(v)
	return nil
}
