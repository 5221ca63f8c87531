package main

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"resonatebridge/resonate"
	"resonatebridge/resonate/client"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestDriver drives a software player through the verbs of the server's rows.
func TestDriver(t *testing.T) {
	d, err := newDriver(resonate.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = d.close(struct{}{}) }()
	p, err := client.NewPlayer(client.PlayerOptions{ClientID: "speaker", Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	st, err := p.WaitFor(ctx, func(st client.State) bool { return st.URL != "" })
	if err != nil {
		t.Fatal(err)
	}
	do := func(verb, args string) map[string]any {
		t.Helper()
		result, err := d.verbs()[verb](json.RawMessage(args))
		if err != nil {
			t.Fatalf("%s: %v", verb, err)
		}
		raw, err := json.Marshal(result)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]any{}
		_ = json.Unmarshal(raw, &out) // null stays empty
		return out
	}
	url := `{"url":"` + st.URL + `"}`
	connected := func(want bool) {
		t.Helper()
		if _, err := p.WaitFor(ctx, func(st client.State) bool { return st.Connected == want }); err != nil {
			t.Fatal(err)
		}
	}
	do("connect", url)
	connected(true)
	if got := do("report", "")["tasks"]; got != 1.0 {
		t.Errorf("tasks: got %v, want 1", got)
	}
	do("disconnect", url)
	connected(false)
	do("connect", url)
	connected(true)
	for len(d.server.Snapshot().Players) == 0 || d.server.Snapshot().Players[0].Connection != resonate.Connected {
		time.Sleep(time.Millisecond)
	}
	report := do("report", "")
	var order string
	for _, e := range report["events"].([]any) {
		order += e.(map[string]any)["what"].(string) + " "
	}
	if order != "up down up " {
		t.Errorf("events: got %q, want up down up", order)
	}
	if got := do("close", ""); got["tasks"] != 0.0 {
		t.Errorf("close: got %v, want no tasks left", got)
	}
	connected(false)
}

// TestClientVerbs connects the driver's player to the driver's server.
func TestClientVerbs(t *testing.T) {
	d, err := newDriver(resonate.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = d.close(struct{}{}) }()
	for _, step := range []struct{ verb, args string }{
		{"client_connect", `{"url":"ws://` + d.addr + `/sendspin","n":3,"wait":true}`},
		{"client_disconnect", `{"n":2,"wait":true}`},
		{"client_storm", `{"senders":2,"messages":2}`},
	} {
		if _, err := d.verbs()[step.verb](json.RawMessage(step.args)); err != nil {
			t.Fatalf("%s: %v", step.verb, err)
		}
	}
	_, _ = d.close(struct{}{}) // with it ends who counts
	if d.tried.ok != 3 || d.tried.downs != 1 || len(d.tried.errs) != 0 {
		t.Errorf("got %d connects, %d ends, errors %v; want 3, 1, none", d.tried.ok, d.tried.downs, d.tried.errs)
	}
}
