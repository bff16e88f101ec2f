package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/taskfleet/taskfleet/cred"
)

// A Message is one of the log of messages.
type Message struct {
	Exchange string          `json:"exchange"`
	Payload  json.RawMessage `json:"payload"`
}

// Messages calls f with the messages of exchanges, such as exchange/taskcluster-queue/v1/task-completed, from the first
// in the log and as they come, until f returns false.
func (s *Server) Messages(ctx context.Context, f func(Message) (more bool), exchanges ...string) error {
	type binding struct {
		Exchange          string `json:"exchange"`
		RoutingKeyPattern string `json:"routingKeyPattern"`
	}
	var bindings struct {
		Bindings []binding `json:"bindings"`
	}
	for _, x := range exchanges {
		bindings.Bindings = append(bindings.Bindings, binding{x, "#"})
	}
	text, err := json.Marshal(bindings)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.RootURL+"/api/events/v1/connect/?lastEventId=0&bindings="+url.QueryEscape(string(text)), nil)
	if err != nil {
		return err
	}
	if err := cred.Sign(request, cred.Credentials{ClientID: s.ClientID, AccessToken: s.AccessToken}, nil); err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("following the log of messages: %s", response.Status)
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	event := ""
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ": ")
		switch {
		case key == "event":
			event = value
		case key == "data" && event == "gap":
			return fmt.Errorf("there is a gap in the log of messages: %s", value)
		case key == "data" && event == "message":
			var m Message
			if err := json.Unmarshal([]byte(value), &m); err != nil {
				return fmt.Errorf("a message of the log: %w", err)
			}
			if !f(m) {
				return nil
			}
		}
	}
	return fmt.Errorf("the stream of messages ended: %w", lines.Err())
}
