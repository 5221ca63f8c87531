package main

import (
	"strings"
	"testing"
	"time"
)

func TestPage(t *testing.T) {
	lines, err := read(strings.NewReader(`{"Section":"Links","Test":"chaos.TestA","What":"noticed","Got":"25 s","Bound":"28 s"}
{"Section":"Stress","Test":"chaos.TestB","Verdict":"FAILED","Took":1500000000,"Race":true}
{"Section":"Links","Test":"chaos.TestA","Verdict":"ok","Took":2000000}
`))
	if err != nil {
		t.Fatal(err)
	}
	got := page(lines, about{
		commit: "abc", date: time.Date(2026, 11, 26, 1, 2, 3, 0, time.UTC),
		version: "go1.26", system: "linux/amd64", kernel: "6.1", cores: 2,
	}, "## Found\n\nNothing.\n")
	const want = `# What chaos showed

` + "`make chaos`" + ` wrote this page: numbers are those that the tests printed, only the last section is by hand.

2026-11-26, commit abc, go1.26, linux/amd64, kernel 6.1, 2 cores. 2 tests, 1 failed.

## Links

Ran: ` + "`chaos.TestA`" + ` (2 ms).

| what | measured | bound |
|---|---|---|
| noticed | 25 s | 28 s |

## Stress

Ran: ` + "`chaos.TestB`" + ` (1.5 s, race detector, **FAILED**).

## Found

Nothing.
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if _, err := read(strings.NewReader(`{"Section":`)); err == nil {
		t.Error("half a line: got no error")
	}
}
