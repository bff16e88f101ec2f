package graph

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
)

const (
	// Where there is no event stream, the group is asked for this often: soon
	// after something has changed, and less and less while nothing does.
	firstPoll    = 100 * time.Millisecond
	pollInterval = 2 * time.Second
	// Where there is one, this often all the same: a stream that was cut by
	// something that does not say so must not hide the end.
	checkInterval = time.Minute
)

// Watch follows a group until nothing more happens in it (Progress.Ended), and
// returns how it ended. Changed is called with each step of a task, one call
// at a time, p being the picture with that step.
func Watch(ctx context.Context, core *client.Client, groupID string, changed func(p *Progress, c Change)) (*Progress, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &watcher{queue: queue.New(core), progress: NewProgress(groupID), changed: changed}
	events := make(chan streamed, 64)
	stream := &eventStream{core: core, groupID: groupID}
	done := make(chan struct{})
	go func() {
		defer close(done)
		stream.run(ctx, events)
	}()
	defer func() { cancel(); <-done }()
	if err := w.look(ctx); err != nil {
		return w.progress, err
	}
	streaming, interval := false, firstPoll
	poll := time.NewTimer(interval)
	defer poll.Stop()
	for !w.progress.Ended() {
		look := false
		select {
		case <-ctx.Done():
			return w.progress, context.Cause(ctx)
		case <-poll.C:
			look = true
		case e := <-events:
			switch {
			case e.ready:
				look, streaming = true, true
			case e.lost != nil, e.over != nil:
				streaming, interval = false, firstPoll
				poll.Reset(interval)
			default:
				look = w.message(e.message)
			}
		}
		// Events tell of tasks that the group got after it was looked at, but
		// what keeps those from running only a look at the whole group shows.
		if !look && !w.progress.Ended() {
			continue
		}
		told := w.told
		if err := w.look(ctx); err != nil {
			return w.progress, err
		}
		interval = min(2*interval, pollInterval)
		switch {
		case streaming:
			interval = checkInterval
		case w.told > told:
			interval = firstPoll
		}
		poll.Reset(interval)
	}
	return w.progress, nil
}

type watcher struct {
	queue    *queue.Client
	progress *Progress
	changed  func(*Progress, Change)
	told     int // changes so far
}

// look asks for the whole group.
func (w *watcher) look(ctx context.Context) error {
	for t, err := range w.queue.ListTaskGroupAll(ctx, w.progress.GroupID, queue.ListTaskGroupOptions{}) {
		if client.IsNotFound(err) {
			return fmt.Errorf("there is no task group %s: it has no tasks yet, or it has expired: %w", w.progress.GroupID, err)
		} else if err != nil {
			return fmt.Errorf("watch task group %s: %w", w.progress.GroupID, err)
		}
		if c, changed := w.progress.add(t); changed {
			w.tell(c)
		}
	}
	return nil
}

// message takes in a message about a task, and reports whether the group has to
// be looked at because the task is not known.
func (w *watcher) message(payload json.RawMessage) (look bool) {
	var m struct {
		Status queue.TaskStatus `json:"status"`
	}
	if err := json.Unmarshal(payload, &m); err != nil {
		return true // whatever it says, it says that something happened
	}
	c, known, changed := w.progress.update(m.Status)
	if changed {
		w.tell(c)
	}
	return !known
}

func (w *watcher) tell(c Change) {
	w.told++
	if w.changed != nil {
		w.changed(w.progress, c)
	}
}
