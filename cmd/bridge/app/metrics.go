package app

import (
	"net/http"

	"resonatebridge/mqtt"
	"resonatebridge/resonate"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics reads its figures from the newest snapshot when it is asked, so
// nothing has to be kept in step.
type metrics struct {
	server *resonate.Server
	broker func() mqtt.Status
	descs  map[string]*prometheus.Desc
}

func newMetrics(s *resonate.Server, broker func() mqtt.Status) http.Handler {
	m := &metrics{server: s, broker: broker, descs: map[string]*prometheus.Desc{}}
	for name, help := range map[string]string{
		"players":                 "Players known, by connection.",
		"groups":                  "Groups with more than one player or a name.",
		"dials_total":             "Connection attempts to players since the start.",
		"sessions_total":          "Handshakes completed since the start.",
		"malformed_total":         "Messages from players that were dropped as malformed.",
		"slow_consumers_total":    "Sessions ended because the player did not read.",
		"refused_total":           "Connections refused before or at their hello.",
		"encoded_chunks_total":    "Chunks of audio encoded: one for each format of a group.",
		"missed_chunks_total":     "Chunks of audio that a player was too slow for.",
		"mqtt_connected":          "1 while the broker is connected.",
		"mqtt_dropped_total":      "MQTT messages dropped, in either direction.",
		"mqtt_generation":         "Connections to the broker since the start.",
		"player_reconnects_total": "Sessions of a player after its first, since the start.",
	} {
		var labels []string
		switch name {
		case "players":
			labels = []string{"connection"}
		case "player_reconnects_total":
			labels = []string{"player"}
		}
		m.descs[name] = prometheus.NewDesc("resonate_"+name, help, labels, nil)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
}

// Describe is part of prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range m.descs {
		ch <- d
	}
}

// Collect is part of prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	put := func(kind prometheus.ValueType, name string, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(m.descs[name], kind, v, labels...)
	}
	snap := m.server.Snapshot()
	by := map[resonate.Connection]int{}
	for _, p := range snap.Players {
		by[p.Connection]++
		put(prometheus.CounterValue, "player_reconnects_total", float64(p.Reconnects), p.PID)
	}
	for c, n := range by {
		put(prometheus.GaugeValue, "players", float64(n), string(c))
	}
	groups := 0
	for _, g := range snap.Groups {
		if g.Kind != resonate.SoloGroup {
			groups++
		}
	}
	put(prometheus.GaugeValue, "groups", float64(groups))
	counters := m.server.Counters()
	put(prometheus.CounterValue, "dials_total", float64(counters.Dials))
	put(prometheus.CounterValue, "sessions_total", float64(counters.Sessions))
	put(prometheus.CounterValue, "malformed_total", float64(counters.Malformed))
	put(prometheus.CounterValue, "slow_consumers_total", float64(counters.SlowConsumers))
	put(prometheus.CounterValue, "refused_total", float64(counters.Refused))
	put(prometheus.CounterValue, "encoded_chunks_total", float64(counters.Encoded))
	put(prometheus.CounterValue, "missed_chunks_total", float64(counters.Missed))
	b := m.broker()
	connected := 0.0
	if b.Connected {
		connected = 1
	}
	put(prometheus.GaugeValue, "mqtt_connected", connected)
	put(prometheus.CounterValue, "mqtt_dropped_total", float64(b.Drops))
	put(prometheus.CounterValue, "mqtt_generation", float64(b.Generation))
}
