package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/client/workermanager"
)

// A tail is the last lines of the worker's own log.
type tail struct {
	log *slog.Logger // writes to the tail, and where it wrote before

	mu    sync.Mutex
	lines []byte
}

// longestTail is in bytes.
const longestTail = 16 << 10

func newTail(log *slog.Logger) *tail {
	t := &tail{}
	t.log = slog.New(slog.NewMultiHandler(log.Handler(), slog.NewTextHandler(t, nil)))
	return t
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, p...)
	if len(t.lines) > 2*longestTail { // seldom, as all the rest is moved
		t.lines = append([]byte{}, lastLines(t.lines)...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(lastLines(t.lines))
}

// lastLines are the last whole lines, of at most longestTail bytes together.
func lastLines(text []byte) []byte {
	if len(text) <= longestTail {
		return text
	}
	text = text[len(text)-longestTail:]
	return text[bytes.IndexByte(text, '\n')+1:]
}

// A configurationError is about a pool's workerConfig.
type configurationError struct{ error }

func (e *configurationError) Error() string { return "worker: " + e.error.Error() }
func (e *configurationError) Unwrap() error { return e.error }

// tell leaves a note with the worker pool, for whoever looks why it does not
// work, with the end of the worker's log.
func (w *Worker) tell(ctx context.Context, kind, title string, problem error) {
	description := problem.Error()
	if _, is := errors.AsType[*configurationError](problem); is {
		kind, title = "configuration-error", "The worker cannot use the pool's workerConfig"
		description = strings.TrimPrefix(description, "worker: ")
	}
	extra, err := json.Marshal(map[string]string{"log": w.withoutSecrets(w.tail.String())})
	if err != nil {
		w.log.Warn("the worker's log cannot be reported", "err", err)
		extra = json.RawMessage("{}")
	}
	ctx, stop := context.WithTimeout(ctx, lastWords)
	defer stop()
	_, err = w.manager.ReportWorkerError(ctx, w.config.WorkerPoolID, &workermanager.ReportWorkerErrorRequest{
		WorkerGroup: w.config.WorkerGroup, WorkerID: w.config.WorkerID,
		Kind: kind, Title: title, Description: cut(w.withoutSecrets(description), 10_000), Extra: extra,
	})
	if err != nil {
		w.log.Warn("the error could not be reported to the worker pool", "err", err)
	}
}

// tellOfRun reports that a task could not be carried out for a reason of the
// worker's, which is likely to be the same for the next ones.
func (w *Worker) tellOfRun(taskID string, runID int, problem error) {
	if w.hard.Err() != nil {
		return // which is told of in the end
	}
	w.mu.Lock()
	again := time.Since(w.told) < time.Minute
	if !again {
		w.told = time.Now()
	}
	w.mu.Unlock()
	if !again {
		w.tell(w.hard, "task-not-run", "The worker could not carry out a task", fmt.Errorf("task %s, run %d: %w", taskID, runID, problem))
	}
}

// withoutSecrets makes sure of what ought to be so anyway.
func (w *Worker) withoutSecrets(text string) string {
	w.mu.Lock()
	r := w.registered
	w.mu.Unlock()
	secrets := []string{r.Secret, r.Credentials.AccessToken, r.Credentials.Certificate}
	for _, proof := range append([]json.RawMessage{w.config.WorkerIdentityProof}, w.config.otherProofs...) {
		var parts map[string]string
		if json.Unmarshal(proof, &parts) == nil {
			secrets = append(secrets, parts["token"], parts["pkcs7"], parts["signature"])
		}
	}
	for _, s := range secrets {
		if s != "" {
			text = strings.ReplaceAll(text, s, "[secret]")
		}
	}
	return text
}
