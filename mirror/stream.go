package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A ticket entitles whoever has it to the bytes of an origin, for a short time:
// who hands it out has checked that the caller may read them.
type ticket struct {
	Region  string         `json:"region"`
	Origin  string         `json:"origin"`
	Size    int64          `json:"size"`
	SHA256  string         `json:"sha256,omitempty"`
	Expires timestamp.Time `json:"expires"` // of the copy
	Until   timestamp.Time `json:"until"`   // of the ticket
}

const (
	ticketLife  = 10 * time.Minute
	ticketPlace = "mirror/stream"
)

// streamURL is where to get the bytes of what is wanted while they are stored.
func (m *Mirror) streamURL(w Want) (string, error) {
	text, err := json.Marshal(ticket{w.Region, w.Origin.String(), w.Size, w.SHA256, w.Expires, timestamp.Now().Add(ticketLife)})
	if err != nil {
		return "", err
	}
	return m.rootURL + "/api/mirror/v1/stream/" + m.keys.Seal(text, ticketPlace), nil
}

// openTicket is what streamURL was made for.
func (m *Mirror) openTicket(sealed string) (w Want, err error) {
	var t ticket
	text, err := m.keys.Open(sealed, ticketPlace)
	if err == nil {
		err = json.Unmarshal(text, &t)
	}
	var o Origin
	if err == nil {
		o, err = ParseOrigin(t.Origin)
	}
	switch {
	case err != nil:
		return w, api.Errorf(api.InsufficientScopes, "The ticket in the URL is not one that this deployment has made. Ask again for what is to be downloaded, and follow the redirect.")
	case t.Until <= timestamp.Now():
		return w, api.Errorf(api.ResourceExpired, "The ticket in the URL was good until %s. Ask again for what is to be downloaded.", t.Until)
	case !m.guide.regions[t.Region]:
		return w, api.Errorf(api.ResourceNotFound, "Region %s is not configured any more. Ask again for what is to be downloaded.", t.Region)
	}
	return Want{Region: t.Region, Origin: o, Priority: Waited, Size: t.Size, SHA256: t.SHA256, Expires: t.Expires}, nil
}

type ticketPath struct {
	Ticket string `path:"ticket"`
}

var stream = api.Declare(api.Spec{
	Name: "stream", Route: "GET /stream/<ticket>", Hidden: []string{"ticket"}, Unpublished: true,
	Stability: api.Experimental, Category: "Downloads", Title: "Download while a copy is made",
	Doc: `Answers with the bytes of what the ticket in the URL was made for, which are stored as a copy at the same time. Only
redirects lead here.`,
}, func(ctx context.Context, m *Mirror, c api.Call[ticketPath, api.None]) (any, error) {
	w, err := m.openTicket(c.Path.Ticket)
	if err != nil {
		return nil, err
	}
	have, err := m.find(ctx, w.Region, w.Origin.ID())
	switch {
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return m.sendAfterError(ctx, w.Origin, w.Region, err)
	case err == nil && have.State == Failed && have.Due <= timestamp.Now(): // to be tried again
		if _, err := m.want(ctx, w); err != nil {
			return m.sendAfterError(ctx, w.Origin, w.Region, err)
		}
	case err == nil && have.settled():
		return m.sendAsItIs(ctx, w, have)
	}
	if m.trouble(w.Region) != "" {
		return m.sendBehind(ctx, w)
	}
	endless := w.Size < 0 && !c.HTTP.ProtoAtLeast(1, 1)
	if c.HTTP.Method == http.MethodHead || c.HTTP.Header.Get("Range") != "" || endless {
		// Who wants a part of it gets that where all of it is. So does who could not
		// tell its end from a connection that breaks off.
		return m.sendToOrigin(ctx, w.Origin, w.Region, outcomeBehind, "")
	}
	return api.Stream(func(rw http.ResponseWriter, r *http.Request) error { return m.pour(r, rw, w) }), nil
})

// sendBehind is the reply where nobody is to wait for a copy, which is made when
// it can be.
func (m *Mirror) sendBehind(ctx context.Context, w Want) (api.Reply, error) {
	if _, err := m.want(ctx, w); err != nil {
		return m.sendAfterError(ctx, w.Origin, w.Region, err)
	}
	return m.sendToOrigin(ctx, w.Origin, w.Region, outcomeAway, "")
}

// sendAsItIs is the reply for who does not wait for a copy any longer.
func (m *Mirror) sendAsItIs(ctx context.Context, w Want, c *Copy) (api.Reply, error) {
	d, err := m.conclude(ctx, c)
	if err != nil {
		return m.sendAfterError(ctx, w.Origin, w.Region, err)
	}
	switch d.Outcome {
	case outcomeCopy:
		m.metrics.answer(w.Region, string(d.Outcome))
		return sent{Have: string(Present), URL: d.URL}, nil
	case outcomeFailed:
		if u, ok := c.unfetchable(); ok {
			m.metrics.answer(w.Region, answerRefused)
			return u, nil
		}
	}
	return m.sendToOrigin(ctx, w.Origin, w.Region, d.Outcome, "")
}

// pour has the bytes stored and gives them to the client at the same time. If
// that cannot begin, since another copies them already or they are not to be had,
// the client waits for what becomes of the copy. If it breaks off, so does the
// connection: the client has never got the last byte of what was not verified.
func (m *Mirror) pour(r *http.Request, rw http.ResponseWriter, w Want) error {
	ctx, start := r.Context(), time.Now()
	out := &outflow{to: rw, control: http.NewResponseController(rw)}
	c, err := m.through(ctx, w, out.begin)
	if out.begun {
		if err == nil {
			err = out.finish()
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		return nil
	}
	away := err != nil && m.trouble(w.Region) != ""
	if err != nil && !away {
		c, err = m.await(ctx, w.Region, w.Origin.ID(), max(0, defaultMaxWait-time.Since(start)))
	}
	var reply api.Reply
	switch {
	case away:
		reply, err = m.sendBehind(ctx, w)
	case err == nil:
		reply, err = m.sendAsItIs(ctx, w, c)
	case errors.Is(err, store.ErrNotFound): // purged meanwhile
		reply, err = m.sendToOrigin(ctx, w.Origin, w.Region, outcomeLeaving, "")
	default:
		reply, err = m.sendAfterError(ctx, w.Origin, w.Region, err)
	}
	if err != nil {
		http.Error(rw, "The bytes cannot be had at the moment. Ask again.", http.StatusServiceUnavailable)
		return err
	}
	header := rw.Header()
	for name, value := range reply.Header() {
		header.Set(name, value)
	}
	header.Set("Content-Type", "application/json; charset=utf-8")
	rw.WriteHeader(reply.Status())
	return json.NewEncoder(rw).Encode(reply)
}

// An outflow passes bytes on to a client, always keeping back the last byte that
// it was given: what comes after it, or finish, says that all before was right.
type outflow struct {
	to      http.ResponseWriter
	control *http.ResponseController
	begun   bool
	held    []byte // none or one
	patient time.Time
}

// begin is called when it is known what is going to come. The size is -1 if that
// is not.
func (o *outflow) begin(h blob.Headers, size int64) io.Writer {
	o.begun = true
	header := o.to.Header()
	for name, value := range map[string]string{
		"Content-Type": h.ContentType, "Content-Encoding": h.ContentEncoding, "Content-Disposition": h.ContentDisposition,
		// It is shown under our own name, where nothing of it may be run.
		"Content-Security-Policy": "sandbox; default-src 'none'",
	} {
		if value != "" {
			header.Set(name, value)
		}
	}
	if h.ContentType == "" {
		header.Set("Content-Type", "application/octet-stream")
	}
	if size >= 0 {
		header.Set("Content-Length", strconv.FormatInt(size, 10))
	}
	return o
}

// stall is how long a client may take nothing.
const stall = time.Minute

// Write is part of io.Writer.
func (o *outflow) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if now := time.Now(); now.Sub(o.patient) > time.Second {
		o.wait(now)
	}
	if _, err := o.to.Write(o.held); err != nil {
		return 0, err
	}
	last := len(p) - 1
	n, err := o.to.Write(p[:last])
	if err != nil {
		return n, err
	}
	o.held = append(o.held[:0], p[last])
	return len(p), nil
}

// wait has the client be waited for from now on. A recorder in tests has no deadline
// to set.
func (o *outflow) wait(now time.Time) {
	o.control.SetWriteDeadline(now.Add(stall))
	o.patient = now
}

// finish gives the client the last byte, for which it may have waited long.
func (o *outflow) finish() error {
	o.wait(time.Now())
	_, err := o.to.Write(o.held)
	o.held = nil
	return err
}
