package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"resonatebridge/resonate"
	"resonatebridge/resonate/audio"
)

// mediaRoots are the directories whose files may be played: the user's own
// below the data directory, and those that Home Assistant gives an app.
func mediaRoots(cfg Config) []string {
	own, err := filepath.Abs(filepath.Join(cfg.DataDir, "media"))
	if err != nil {
		return []string{"/media", "/share"}
	}
	return []string{own, "/media", "/share"}
}

// quietVolume is the cap of quiet hours that name none.
const quietVolume = 30

func announcements(cfg AudioConfig) resonate.Announcements {
	a := resonate.Announcements{
		Duck: math.Max(audio.Decibels(-float64(cfg.DuckDB)), 1e-6), Ramp: time.Duration(cfg.DuckRamp), Chime: cfg.Chime,
	}
	for _, text := range cfg.QuietHours { // checked with the configuration
		span, volume, _ := strings.Cut(text, "=")
		from, to, _ := strings.Cut(span, "-")
		q := resonate.QuietHours{From: sinceMidnight(from), To: sinceMidnight(to), Volume: quietVolume}
		if n, err := strconv.Atoi(volume); err == nil {
			q.Volume = n
		}
		a.Quiet = append(a.Quiet, q)
	}
	return a
}

func sinceMidnight(clock string) time.Duration {
	t, err := time.Parse("15:04", clock)
	if err != nil {
		return 0
	}
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute
}

// speech asks Home Assistant to speak (home-assistant-mqtt 7.3): POST
// /api/tts_get_url makes the audio, and says where it is.
type speech struct {
	url, token, engine string
}

// newSpeech is nil if no speech service is configured. In a Home Assistant app
// the Supervisor's proxy and token are used where nothing else is set.
func newSpeech(cfg HomeAssistantConfig, supervisorToken string) func(context.Context, string) (string, error) {
	s := speech{url: strings.TrimSuffix(cfg.URL, "/"), token: cfg.Token.Reveal(), engine: cfg.TTSEngine}
	if s.url == "" && supervisorToken != "" {
		s.url, s.token = "http://supervisor/core", supervisorToken
	}
	if s.url == "" || s.token == "" || s.engine == "" {
		return nil
	}
	return s.say
}

func (s speech) say(ctx context.Context, text string) (string, error) {
	body, err := json.Marshal(map[string]string{"engine_id": s.engine, "message": text})
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/api/tts_get_url", bytes.NewReader(body))
	if err != nil {
		return "", fmt.Errorf("speech: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("%w: speech: %w", audio.ErrUnreachable, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return "", fmt.Errorf("%w: speech: %w", audio.ErrUnreachable, err)
	}
	var doc struct {
		URL  string `json:"url"`
		Path string `json:"path"`
	}
	if resp.StatusCode != http.StatusOK || json.Unmarshal(answer, &doc) != nil {
		return "", fmt.Errorf("%w: Home Assistant answered %s to the request for speech: %.200q; check homeassistant.token and tts_engine",
			audio.ErrUnreachable, resp.Status, answer)
	}
	// Its own address of itself may not be reachable from here; the path is.
	if base, err := url.Parse(s.url); err == nil && doc.Path != "" {
		return base.JoinPath(doc.Path).String(), nil
	}
	return doc.URL, nil
}
