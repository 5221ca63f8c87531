package facts

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestNotes(t *testing.T) {
	before := *file
	*file = filepath.Join(t.TempDir(), "facts")
	t.Cleanup(func() { *file = before })
	t.Run("one", func(t *testing.T) {
		n := Begin(t, "Links")
		n.Add("noticed", []time.Duration{3 * time.Second, time.Millisecond, 25400 * time.Microsecond}, "5 s")
		n.Add("sockets", 7, "")
	})
	t.Run("two", func(t *testing.T) {
		Begin(t, "Links")
		t.Skip("to see what is written down then")
	})
	data, err := os.ReadFile(*file)
	if err != nil {
		t.Fatal(err)
	}
	want := []Line{
		{What: "noticed", Got: "3 times, median 25.4 ms, worst 3 s", Bound: "5 s", Test: "facts.TestNotes/one"},
		{What: "sockets", Got: "7", Test: "facts.TestNotes/one"},
		{Verdict: "ok", Test: "facts.TestNotes/one"},
		{Verdict: "skipped", Test: "facts.TestNotes/two"},
	}
	got := strings.Split(strings.TrimSpace(string(data)), "\n")
	if len(got) != len(want) {
		t.Fatalf("got %d lines, want %d:\n%s", len(got), len(want), data)
	}
	for i, w := range want {
		w.Section = "Links"
		var l Line
		if err := json.Unmarshal([]byte(got[i]), &l); err != nil {
			t.Fatal(err)
		}
		if (l.Verdict != "") != (l.Took > 0) {
			t.Errorf("line %d: got the time %v with the verdict %q", i, l.Took, l.Verdict)
		}
		l.Took, l.Race = 0, false
		if l != w {
			t.Errorf("line %d: got %+v, want %+v", i, l, w)
		}
	}
}

func TestTime(t *testing.T) {
	for _, tc := range []struct {
		d    time.Duration
		want string
	}{
		{1500 * time.Nanosecond, "1.5 us"},
		{25 * time.Millisecond, "25 ms"},
		{61*time.Second + 234*time.Millisecond, "61.2 s"},
		{20 * time.Minute, "20m0s"},
	} {
		if got := Time(tc.d); got != tc.want {
			t.Errorf("%v: got %q, want %q", tc.d, got, tc.want)
		}
	}
}
