package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// haSupervisor is the Home Assistant Supervisor as an app (add-on) sees it.
// Services may be read without further rights (developers.home-assistant,
// apps/communication).
type haSupervisor struct {
	url   string
	token string
}

// haBroker is the broker that the Supervisor offers.
type haBroker struct {
	Host     string `json:"host"`
	Port     int    `json:"port"`
	SSL      bool   `json:"ssl"`
	Username string `json:"username"`
	Password string `json:"password"`
}

func (b haBroker) url() string {
	scheme := "mqtt"
	if b.SSL {
		scheme = "mqtts"
	}
	return scheme + "://" + net.JoinHostPort(b.Host, strconv.Itoa(b.Port))
}

// broker asks for the broker's address and login.
func (s haSupervisor) broker(ctx context.Context) (haBroker, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/services/mqtt", nil)
	if err != nil {
		return haBroker{}, fmt.Errorf("supervisor: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return haBroker{}, fmt.Errorf("supervisor: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return haBroker{}, fmt.Errorf("supervisor: services/mqtt answered %s", resp.Status)
	}
	var doc struct{ Data haBroker }
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&doc); err != nil {
		return haBroker{}, fmt.Errorf("supervisor: services/mqtt: %w", err)
	}
	if doc.Data.Host == "" || doc.Data.Port < 1 || doc.Data.Port > 65535 {
		return haBroker{}, fmt.Errorf("supervisor: services/mqtt names no usable address: host %q, port %d", doc.Data.Host, doc.Data.Port)
	}
	return doc.Data, nil
}

// credentials are asked for before each attempt to connect: they change when
// the broker app is installed anew.
func (s haSupervisor) credentials(ctx context.Context) (username, password string, err error) {
	b, err := s.broker(ctx)
	return b.Username, b.Password, err
}
