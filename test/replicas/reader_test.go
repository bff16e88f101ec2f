package replicas

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/cred"
)

const exchanges = "exchange/taskcluster-queue/v1/"

// told are the exchanges that tell of the life of a task.
var told = []string{"task-defined", "task-pending", "task-running", "task-completed", "task-failed", "task-exception", "artifact-created"}

// follow reads the log of messages from its beginning, over as many streams as it takes, each from where the one before
// broke off, until all tasks were told of as resolved.
func (l *load) follow(ctx context.Context) {
	last, streams := "0", 0
	over, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		l.wait(func() bool { return l.told == l.total })
		stop()
	}()
	for ; over.Err() == nil; streams++ {
		if err := l.stream(over, &last); err != nil && over.Err() == nil {
			l.stop(err)
			return
		}
		sleep(over, 50*time.Millisecond)
	}
	l.t.Logf("the log was read to position %s in %d streams", last, streams)
}

// stream reads one stream to its end. What breaks a stream is no error; what it must not say is.
func (l *load) stream(ctx context.Context, last *string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// There is a ping every 20 seconds.
	silence := time.AfterFunc(time.Minute, cancel)
	defer silence.Stop()

	var bindings []map[string]string
	for _, x := range told {
		bindings = append(bindings, map[string]string{"exchange": exchanges + x, "routingKeyPattern": "#"})
	}
	text, err := json.Marshal(map[string]any{"bindings": bindings})
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, l.p.balancer.url()+"/api/events/v1/connect/?lastEventId="+*last+"&bindings="+url.QueryEscape(string(text)), nil)
	if err != nil {
		return err
	}
	if err := cred.Sign(r, l.p.root, nil); err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		reply, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		if resp.StatusCode < 500 {
			return fmt.Errorf("the log cannot be read from %s: %s: %s", *last, resp.Status, reply)
		}
		return nil
	}
	lines := bufio.NewReader(resp.Body)
	event, id := "", ""
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return nil // a line that has no end is of a stream that broke, and comes again
		}
		silence.Reset(time.Minute)
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch key {
		case "event":
			event = value
		case "id":
			id = value
		case "data":
			switch event {
			case "message":
				if err := l.message(id, []byte(value)); err != nil {
					return err
				}
			case "gap":
				return fmt.Errorf("%w: %s", errLost, value)
			}
			*last = id
		}
	}
}

func (l *load) message(id string, text []byte) error {
	var m struct {
		Exchange string
		Payload  struct {
			Status struct{ TaskID string }
			RunID  int
		}
	}
	position, err := strconv.ParseInt(id, 10, 64)
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		return fmt.Errorf("a message at %s: %w", id, err)
	}
	l.event(position, strings.TrimPrefix(m.Exchange, exchanges), m.Payload.Status.TaskID, m.Payload.RunID)
	return nil
}
