package app

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"resonatebridge/resonate"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"charm.land/lipgloss/v2/table"
)

// refresh is how often the display looks at the newest snapshot.
const refresh = 100 * time.Millisecond

// lines prints one line for each change, for pipes and files.
func (d *demo) lines(ctx context.Context, r Running) error {
	fmt.Fprintf(d.out, "Resonate Bridge demo: broker %s, health http://%s/healthz\n", r.MQTT, r.HTTP)
	tick := time.NewTicker(refresh)
	defer tick.Stop()
	shown := map[string]string{}
	said := false
	for {
		snap := r.Server.Snapshot()
		for _, p := range snap.Players {
			fields := slices.DeleteFunc(playerRow(snap, p), func(s string) bool { return s == "" || s == "-" })
			if row := strings.Join(fields, "  "); shown[p.PID] != row {
				shown[p.PID] = row
				fmt.Fprintln(d.out, row)
			}
		}
		if row := playing(snap); shown[""] != row {
			shown[""] = row
			fmt.Fprintln(d.out, row)
		}
		if connected(snap) == d.speakers && !said {
			said = true
			fmt.Fprintln(d.out, "\nTry, in another terminal:")
			for _, line := range d.try(snap, r.MQTT) {
				fmt.Fprintln(d.out, "  "+line)
			}
			fmt.Fprintln(d.out)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// playing says where something plays, and what.
func playing(snap *resonate.Snapshot) string {
	var all []string
	for _, g := range snap.Groups {
		if g.Playback == resonate.Playing && g.Media != nil {
			all = append(all, fmt.Sprintf("%s plays %s", g.Name, cmp.Or(g.Media.Title, g.Media.URL)))
		}
	}
	if len(all) == 0 {
		return "nothing plays"
	}
	return strings.Join(all, ", ")
}

func connected(snap *resonate.Snapshot) int {
	n := 0
	for _, p := range snap.Players {
		if p.Connection == resonate.Connected {
			n++
		}
	}
	return n
}

// playerRow is what people see of a player.
func playerRow(snap *resonate.Snapshot, p *resonate.Player) []string {
	volume, mute, way := "-", "", "dialled"
	if p.Volume != nil {
		volume = strconv.Itoa(*p.Volume) + " %"
	}
	if p.Mute != nil && *p.Mute {
		mute = "muted"
	}
	if p.URL == "" {
		way = "dialled in"
	}
	group := "-"
	if g := snap.Group(p.GroupID); g != nil && g.Kind != resonate.SoloGroup {
		group = g.Name
	}
	return []string{p.Name, p.PID, string(p.Connection), volume, mute, group, p.Dialect, way}
}

// table shows a live table until the user quits or ctx ends.
func (d *demo) table(ctx context.Context, r Running) error {
	program := tea.NewProgram(demoView{demo: d, running: r, snap: r.Server.Snapshot()},
		tea.WithContext(ctx), tea.WithOutput(d.out), tea.WithoutSignalHandler())
	if _, err := program.Run(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("demo: %w", err)
	}
	return nil // the user quit, or a signal came
}

// demoView is the screen, as bubbletea wants it: a value, an update, a view.
type demoView struct {
	demo    *demo
	running Running
	snap    *resonate.Snapshot
}

type tickMsg struct{}

func tick() tea.Cmd { return tea.Tick(refresh, func(time.Time) tea.Msg { return tickMsg{} }) }

// Init starts the refreshing.
func (v demoView) Init() tea.Cmd { return tick() }

// Update takes keys and ticks.
func (v demoView) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tickMsg:
		v.snap = v.running.Server.Snapshot()
		return v, tick()
	case tea.KeyPressMsg:
		switch msg.String() {
		case "q", "esc", "ctrl+c":
			return v, tea.Quit
		}
	}
	return v, nil
}

// View draws the screen.
func (v demoView) View() tea.View {
	bold, faint := lipgloss.NewStyle().Bold(true), lipgloss.NewStyle().Faint(true)
	t := table.New().Border(lipgloss.RoundedBorder()).
		Headers("Speaker", "Id", "Connection", "Volume", "", "Group", "Dialect", "Way").
		StyleFunc(func(row, col int) lipgloss.Style {
			s := lipgloss.NewStyle().Padding(0, 1)
			switch {
			case row == table.HeaderRow:
				return s.Bold(true)
			case col == 2 && row < len(v.snap.Players) && v.snap.Players[row].Connection == resonate.Connected:
				return s.Foreground(lipgloss.Color("2"))
			case col == 2:
				return s.Foreground(lipgloss.Color("3"))
			}
			return s
		})
	for _, p := range v.snap.Players {
		t.Row(playerRow(v.snap, p)...)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s\n", bold.Render("Resonate Bridge demo"),
		faint.Render(fmt.Sprintf("broker %s · health http://%s/healthz", v.running.MQTT, v.running.HTTP)))
	b.WriteString(t.Render())
	b.WriteString("\n" + playing(v.snap) + "\n\n" + bold.Render("Try, in another terminal") + "\n")
	for _, line := range v.demo.try(v.snap, v.running.MQTT) {
		b.WriteString("  " + line + "\n")
	}
	for _, line := range v.demo.notes.all() {
		b.WriteString(faint.Render(line) + "\n")
	}
	b.WriteString(faint.Render("\nq quits") + "\n")
	return tea.NewView(b.String())
}

// lastLines keeps the last few lines of a log for the screen.
type lastLines struct {
	mu    sync.Mutex
	lines []string
}

const keptLines = 4

// Write takes one or more whole lines.
func (l *lastLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(string(p)) {
		l.lines = append(l.lines, strings.TrimRight(line, "\n"))
	}
	l.lines = l.lines[max(0, len(l.lines)-keptLines):]
	return len(p), nil
}

func (l *lastLines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines...)
}
