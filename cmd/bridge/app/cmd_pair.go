package app

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"resonatebridge/mqtt"

	"github.com/spf13/pflag"
)

// Times of bridge pair. An attempt has time-outs of its own, in the bridge.
const (
	// staleFor is how long an end that was there before may be the old one.
	staleFor = 3 * time.Second
	// cancelTime is how long an interrupted command takes to cancel.
	cancelTime = 5 * time.Second
)

func pairCommand() command {
	return command{
		name: "pair", args: "PLAYER", short: "pairs an encrypted speaker, approves or forgets it",
		long: `PLAYER is the id or the name of a speaker; bridge status lists them.

Says what the speaker waits for, asks for the code that it shows, says or has on
its label, and tells how it ended. A token or the text of a QR code is taken in
its place. Codes are read from standard input, one a line, also in a script.
Ctrl-C cancels.`,
		setup: func(fs *pflag.FlagSet) runFunc {
			AddConfigFlags(fs)
			code := fs.String("code", "", "code, token or text of a QR code; others on this machine see it in the list of processes")
			approve := fs.Bool("approve", false, "use the speaker without pairing it")
			withdraw := fs.Bool("withdraw", false, "take an approval back")
			forget := fs.Bool("forget", false, "forget the speaker and its pairing")
			return func(ctx context.Context, c *call) error {
				if len(c.args) != 1 {
					return usagef("want PLAYER, got %d arguments", len(c.args))
				}
				chosen := 0
				for _, on := range []bool{*code != "", *approve, *withdraw, *forget} {
					if on {
						chosen++
					}
				}
				if chosen > 1 {
					return usagef("--code, --approve, --withdraw and --forget exclude each other")
				}
				r, h, err := c.bridge(ctx)
				if err != nil {
					return err
				}
				t, err := h.find(c.args[0], h.playerTargets())
				if err != nil {
					return err
				}
				id := map[string]any{"id": t.id}
				switch {
				case *approve:
					return c.once(ctx, r, "device/approve", id, plain(t.name)+": approved; it is used without pairing")
				case *withdraw:
					return c.once(ctx, r, "device/approve", map[string]any{"id": t.id, "on": false}, plain(t.name)+": the approval is withdrawn")
				case *forget:
					return c.once(ctx, r, "device/remove", id, plain(t.name)+": forgotten; it comes back as new when it announces itself, or the bridge starts")
				}
				d := &pairDialogue{call: c, r: r, t: t, given: *code, in: bufio.NewReader(c.Stdin), lines: make(chan line, 1), entered: -1}
				return d.run(ctx)
			}
		},
	}
}

// once makes one request and says that it was done.
func (c *call) once(ctx context.Context, r *remote, action string, fields map[string]any, done string) error {
	if _, err := r.request(ctx, action, fields); err != nil {
		return err
	}
	_, err := fmt.Fprintln(c.Stdout, done)
	return err
}

// pairingEntry is how pairing stands, as far as it is used here.
type pairingEntry struct {
	Methods    []string `json:"methods"`
	Step       string   `json:"step"` // empty: there was no attempt
	Method     string   `json:"method"`
	Format     string   `json:"format"`
	Digits     int      `json:"digits"`
	Round      int      `json:"round"`
	Message    string   `json:"message"`
	Error      string   `json:"error"`
	CodeWanted bool     `json:"code_wanted"`
	Prompt     string   `json:"prompt"`
}

// live reports whether an attempt goes on.
func (p pairingEntry) live() bool { return p.Step != "" && p.Step != "done" && p.Step != "failed" }

// same reports whether nothing happened between two entries.
func (p pairingEntry) same(q pairingEntry) bool {
	return p.Step == q.Step && p.Method == q.Method && p.Round == q.Round && p.Message == q.Message && p.Error == q.Error
}

// line is what was read from standard input.
type line struct {
	text string
	err  error
}

// pairDialogue leads a person through one attempt to pair.
type pairDialogue struct {
	*call
	r *remote
	t target

	given   string // by flag, until it is used
	in      *bufio.Reader
	lines   chan line // cap 1
	reading bool      // a goroutine reads, or its line waits in lines
	entered int       // the round that a code was entered for; -1: none
	said    string    // the last prompt
	spinner *progress
}

// run pairs. The goroutine that watches ends with it; one that still reads
// standard input can't be stopped, and ends with the process.
func (d *pairDialogue) run(ctx context.Context) error {
	states, watched, stop := d.watch(ctx)
	defer stop()
	defer d.spin("")
	err := d.attempt(ctx, states, watched)
	if ctx.Err() != nil {
		d.spin("")
		d.cancel(ctx)
		return ctx.Err()
	}
	return err
}

// watch follows the speaker. Only its newest state counts; one without an id
// says that it was forgotten.
func (d *pairDialogue) watch(ctx context.Context) (states <-chan playerEntry, watched <-chan error, stop func()) {
	newest, ended := make(chan playerEntry, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	state, bridge := d.r.base+"/player/"+d.t.id+"/state", d.r.base+"/bridge/state"
	done := make(chan struct{})
	go func() {
		defer close(done)
		var failed error
		err := d.r.broker.watch(ctx, []string{state, bridge}, func(m mqtt.Message) bool {
			var p playerEntry
			switch {
			case m.Topic == bridge:
				if string(m.Payload) != "online" {
					failed = errors.New("the bridge is gone; look at its log")
				}
				return failed == nil
			case len(m.Payload) > 0:
				if failed = json.Unmarshal(m.Payload, &p); failed != nil {
					failed = d.r.strange(m, failed)
					return false
				}
			}
			select {
			case <-newest:
			default:
			}
			newest <- p
			return true
		})
		if failed != nil {
			err = failed
		}
		ended <- err
	}()
	return newest, ended, func() { cancel(); <-done }
}

// attempt begins an attempt, or joins one that goes on, and follows it to its end.
func (d *pairDialogue) attempt(ctx context.Context, states <-chan playerEntry, watched <-chan error) error {
	var p playerEntry
	select {
	case p = <-states:
	case err := <-watched:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(answerTime):
		return fmt.Errorf("the bridge says nothing about %s", plain(d.t.name))
	}
	before := p.Pairing
	stale := time.NewTimer(staleFor)
	defer stale.Stop()
	fresh := before.live()
	if !fresh {
		if p.Trust == "paired" && p.Connection == "connected" {
			_, err := fmt.Fprintf(d.Stdout, "%s is paired already; --forget ends that\n", plain(d.t.name))
			return err
		}
		if err := d.begin(ctx, p.Pairing); err != nil {
			return err
		}
		stale.Reset(staleFor)
	} else if done, err := d.show(ctx, p); done || err != nil {
		return err
	}
	for {
		select {
		case p = <-states:
			if fresh = fresh || !p.Pairing.same(before); !fresh {
				continue
			}
		case <-stale.C:
			if fresh {
				continue
			}
			fresh = true
		case l := <-d.lines:
			d.reading = false
			if err := d.enter(ctx, l, p.Pairing); err != nil {
				return err
			}
		case err := <-watched:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
		if done, err := d.show(ctx, p); done || err != nil {
			return err
		}
	}
}

// begin begins an attempt. A token, or a code that is printed on the speaker,
// goes along; one that it has still to show comes later.
func (d *pairDialogue) begin(ctx context.Context, p pairingEntry) error {
	fields := map[string]any{"id": d.t.id}
	if len(p.Methods) == 1 && p.Methods[0] == "pairing_psk" && d.given == "" {
		d.ask("Token (SP:0...): ")
		select {
		case l := <-d.lines:
			d.reading = false
			if d.given = strings.TrimSpace(l.text); d.given == "" {
				return fmt.Errorf("%s can only be paired by its token, and none was entered", plain(d.t.name))
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if isToken(d.given) || d.given != "" && !strings.Contains(strings.Join(p.Methods, " "), "dynamic") {
		fields["code"] = d.given
		if !isToken(d.given) {
			d.entered = 1
		}
		d.given = ""
	}
	_, err := d.r.request(ctx, "device/pair", fields)
	return err
}

// isToken reports whether text is a pairing token rather than a code. The
// bridge reads it; this only tells when to send it.
func isToken(text string) bool {
	text = strings.ToUpper(strings.TrimSpace(text))
	const shortest = 50 // characters; a code of digits or a QR code has fewer
	return strings.HasPrefix(text, "SP:0") || len(text) >= shortest && text[0] == '0'
}

// show tells what is new, asks for a code if one is wanted, and reports whether
// it was the end.
func (d *pairDialogue) show(ctx context.Context, p playerEntry) (done bool, err error) {
	if p.ID == "" {
		return true, fmt.Errorf("%s was forgotten meanwhile", plain(d.t.name))
	}
	now := p.Pairing
	switch now.Step {
	case "":
		return false, nil
	case "failed":
		return true, errors.New(plain(orDash(now.Error)))
	}
	if now.Prompt != d.said {
		d.said = now.Prompt
		d.spin("")
		if _, err := fmt.Fprintln(d.Stdout, upperFirst(plain(now.Prompt))); err != nil {
			return true, err
		}
	}
	switch {
	case now.Step == "done":
		return true, nil
	case !now.CodeWanted || now.Round <= d.entered:
		d.spin(plain(d.t.name))
	case d.given != "":
		l := line{text: d.given}
		d.given = ""
		return false, d.enter(ctx, l, now)
	case !d.reading:
		d.ask(codePrompt(now))
	}
	return false, nil
}

// codePrompt asks for the code that is wanted.
func codePrompt(p pairingEntry) string {
	switch {
	case p.Format == "qr_code":
		return "Text of the QR code (SP:1...): "
	case p.Digits == 6:
		return "Code (such as 123-456): "
	case p.Digits == 8:
		return "Code (such as 1234-5678): "
	}
	return "Code: "
}

// ask prompts a person and reads a line in the background.
func (d *pairDialogue) ask(prompt string) {
	d.spin("")
	if isTerminal(d.Stdin) {
		fmt.Fprint(d.Stdout, prompt)
	}
	d.reading = true
	go func() {
		text, err := d.in.ReadString('\n')
		if text != "" {
			err = nil // a last line needs no end
		}
		d.lines <- line{text, err}
	}()
}

// enter sends a code. One that can't be right is asked for again.
func (d *pairDialogue) enter(ctx context.Context, l line, p pairingEntry) error {
	if l.err != nil {
		d.cancel(ctx)
		if errors.Is(l.err, io.EOF) {
			return fmt.Errorf("%s: standard input has ended", orDash(plain(p.Prompt)))
		}
		return l.err
	}
	text := strings.TrimSpace(l.text)
	if text == "" {
		return nil // show asks again
	}
	fields := map[string]any{"id": d.t.id, "code": text}
	if isToken(text) {
		fields["method"] = "pairing_psk" // instead of the code that was asked for
	}
	_, err := d.r.request(ctx, "device/pair", fields)
	var refused *bridgeError
	if errors.As(err, &refused) && refused.code == "invalid_value" {
		_, err := fmt.Fprintln(d.Stdout, upperFirst(plain(refused.message)))
		return err
	}
	if err == nil {
		d.entered = max(p.Round, 1)
	}
	return err
}

// cancel ends the attempt, if there is one, also when ctx has ended.
func (d *pairDialogue) cancel(ctx context.Context) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), cancelTime)
	defer stop()
	if _, err := d.r.request(ctx, "device/cancel_pairing", map[string]any{"id": d.t.id}); err != nil {
		fmt.Fprintf(d.Stderr, "bridge pair: it could not be cancelled: %v\n", err)
		return
	}
	fmt.Fprintf(d.Stderr, "bridge pair: cancelled\n")
}

// spin shows that something takes its time; "" ends that.
func (d *pairDialogue) spin(text string) {
	if d.spinner != nil {
		d.spinner.end()
		d.spinner = nil
	}
	if text != "" {
		d.spinner = d.progress(text)
	}
}
