package event

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/klauspost/compress/gzhttp"
)

// sse is the format of server-sent events.
type sse struct {
	w   http.ResponseWriter
	ctl *http.ResponseController
}

const eventStream = "text/event-stream"

func (s *stream) serveSSE(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("Content-Type", eventStream)
	h.Set("X-Accel-Buffering", "no")
	h.Set(gzhttp.HeaderNoCompression, "true") // it would take a hundred times the memory
	w.WriteHeader(http.StatusOK)
	f := sse{w, http.NewResponseController(w)}
	if err := f.event(r.Context(), "ready", s.position(), struct{}{}); err != nil {
		return err
	}
	return s.carry(r.Context(), f)
}

func (f sse) event(_ context.Context, name string, id int64, payload any) error {
	body, err := json.Marshal(payload)
	if err != nil {
		return err
	}
	return f.write(fmt.Appendf(nil, "event: %s\nid: %d\ndata: %s\n\n", name, id, body))
}

func (f sse) messages(_ context.Context, list []*entry) error {
	if len(list) == 1 {
		if err := list[0].write(); err != nil {
			return err
		}
		return f.write(list[0].sse)
	}
	var text bytes.Buffer
	for _, e := range list {
		if err := e.write(); err != nil {
			return err
		}
		text.Write(e.sse)
	}
	return f.write(text.Bytes())
}

// write gives a reader that takes nothing the time of writeTimeout.
func (f sse) write(text []byte) error {
	if err := f.ctl.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := f.w.Write(text); err != nil {
		return err
	}
	return f.ctl.Flush()
}
