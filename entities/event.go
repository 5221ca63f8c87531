package entities

import (
	"maps"
	"slices"

	"resonatebridge/resonate"
)

// The types of events. Those of players are also sent on their own topic.
const (
	playerFound          = "player_found"
	playerLost           = "player_lost"
	playerConnected      = "player_connected"
	takenByOtherServer   = "taken_by_other_server"
	pairingRequired      = "pairing_required" // or a person has to do something for it
	approvalRequired     = "approval_required"
	pairingRefused       = "pairing_refused" // what was entered or asked for was not taken
	pairingFinished      = "pairing_finished"
	groupChanged         = "group_changed"
	commandIgnored       = "command_ignored"
	announcementFinished = "announcement_finished"
	streamError          = "stream_error"
)

func playerEvents() []string {
	return []string{playerConnected, playerLost, takenByOtherServer, pairingRequired, approvalRequired, pairingRefused, pairingFinished, groupChanged, commandIgnored, announcementFinished, streamError}
}

func bridgeEvents() []string {
	return []string{playerFound, playerConnected, playerLost, takenByOtherServer, pairingRequired, approvalRequired, pairingRefused, pairingFinished, groupChanged, commandIgnored, announcementFinished, streamError}
}

// event is something that happened between two snapshots.
type event struct {
	kind string
	pids []string // whose topics get it too
	data map[string]any
}

// events tells what happened between two snapshots. What happened in between
// and was undone is not told.
func events(before, after *resonate.Snapshot) []event {
	var out []event
	old := make(map[string]*resonate.Player)
	for i, p := range before.Players {
		if i >= len(after.Players) || after.Players[i] != p { // most didn't change
			old[p.PID] = p
		}
	}
	for i, p := range after.Players {
		if i < len(before.Players) && before.Players[i] == p {
			continue
		}
		was := old[p.PID]
		delete(old, p.PID)
		if was == p {
			continue
		}
		of := func(kind string, more map[string]any) {
			e := event{kind, []string{p.PID}, map[string]any{"id": p.PID, "name": p.Name}}
			maps.Copy(e.data, more)
			if kind == playerFound {
				e.pids = nil // its entities are not there yet
			}
			out = append(out, e)
		}
		if was == nil {
			of(playerFound, map[string]any{"url": optional(p.URL)})
			was = &resonate.Player{GroupID: p.GroupID}
		}
		if was.Available && !p.Available {
			of(playerLost, map[string]any{"connection": string(p.Connection), "last_error": optional(p.LastError)})
		}
		if was.Connection != p.Connection {
			switch p.Connection {
			case resonate.Connected:
				of(playerConnected, map[string]any{"dialect": optional(p.Dialect)})
			case resonate.HeldByOtherServer:
				of(takenByOtherServer, map[string]any{"held_by": optional(p.HeldBy)})
			case resonate.Searching, resonate.Connecting, resonate.Offline, resonate.PairingRequired, resonate.ApprovalRequired, resonate.NotManaged, resonate.ConnectionProblem:
			}
		}
		trustEvents(was, p, of)
	}
	for _, p := range before.Players {
		if old[p.PID] != nil {
			out = append(out, event{playerLost, nil, map[string]any{"id": p.PID, "name": p.Name, "forgotten": true}})
		}
	}
	return slices.Concat(out, groupEvents(before, after), mediaEvents(before, after))
}

// mediaEvents tell what happened to what plays, to every player of its group.
func mediaEvents(before, after *resonate.Snapshot) []event {
	var out []event
	for _, g := range after.Groups {
		was := before.Group(g.ID)
		if was == nil || was == g {
			continue
		}
		data := func(more map[string]any) map[string]any {
			m := map[string]any{"group": g.ID, "name": g.Name}
			maps.Copy(m, more)
			return m
		}
		if was.Announcing && !g.Announcing {
			out = append(out, event{announcementFinished, g.Members, data(nil)})
		}
		if g.MediaError != "" && g.MediaError != was.MediaError {
			out = append(out, event{streamError, g.Members, data(map[string]any{"message": g.MediaError})})
		}
	}
	return out
}

// groupEvents has one event for each group whose members changed, and tells it
// to the players that came and went. Solo groups are nobody's news.
func groupEvents(before, after *resonate.Snapshot) []event {
	var out []event
	old := make(map[string]*resonate.Group, len(before.Groups))
	for _, g := range before.Groups {
		if g.Kind != resonate.SoloGroup {
			old[g.ID] = g
		}
	}
	changed := func(g *resonate.Group, was, is []string) {
		var added, removed []string
		for _, pid := range is {
			if !slices.Contains(was, pid) {
				added = append(added, pid)
			}
		}
		for _, pid := range was {
			if !slices.Contains(is, pid) {
				removed = append(removed, pid)
			}
		}
		if added == nil && removed == nil {
			return
		}
		out = append(out, event{groupChanged, slices.Concat(added, removed), map[string]any{
			"id": g.ID, "name": g.Name, "kind": string(g.Kind), "members": list(is), "added": list(added), "removed": list(removed),
		}})
	}
	for _, g := range after.Groups {
		if g.Kind == resonate.SoloGroup {
			continue
		}
		was := old[g.ID]
		delete(old, g.ID)
		switch {
		case was == nil:
			changed(g, nil, g.Members)
		case was != g:
			changed(g, was.Members, g.Members)
		}
	}
	for _, g := range before.Groups {
		if old[g.ID] != nil {
			changed(g, g.Members, nil)
		}
	}
	return out
}
