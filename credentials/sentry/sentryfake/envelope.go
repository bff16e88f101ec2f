package sentryfake

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"
)

var (
	envelopePath = regexp.MustCompile(`^/api/([0-9]+)/envelope/?$`)
	authKey      = regexp.MustCompile(`sentry_key=([0-9a-f]+)`)
)

// envelope takes what an SDK sends.
func (s *Server) envelope(r *http.Request, body []byte) answer {
	m := envelopePath.FindStringSubmatch(r.URL.Path)
	if m == nil {
		return missing
	}
	if r.Method != http.MethodPost {
		return says(http.StatusMethodNotAllowed, "it takes POST")
	}
	public := r.URL.Query().Get("sentry_key")
	if found := authKey.FindStringSubmatch(r.Header.Get("X-Sentry-Auth")); found != nil {
		public = found[1]
	}
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err == nil {
			body, err = io.ReadAll(io.LimitReader(z, maxBody))
		}
		if err != nil {
			return says(http.StatusBadRequest, "the body cannot be decompressed")
		}
	}
	e, ok := parse(body)
	if !ok {
		return says(http.StatusBadRequest, "bad envelope")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.project(m[1])
	if p == nil || p.key(public) == nil || !p.key(public).active {
		return says(http.StatusForbidden, "event submission rejected with_reason: ProjectId")
	}
	e.At, e.Project, e.Key = s.now(), p.slug, public
	s.envelopes = append(s.envelopes, e)
	for _, item := range e.Items {
		if item.Type == "client_report" {
			continue
		}
		p.key(public).used[e.At.Truncate(time.Hour).Unix()]++
		if item.Type == "event" && p.first.IsZero() {
			p.first = e.At
		}
	}
	id, _ := e.Header["event_id"].(string)
	if id == "" {
		return answer{status: 200, body: map[string]string{}}
	}
	return answer{status: 200, body: map[string]string{"id": id}}
}

// parse reads an envelope: a line of JSON, and for each item one more and its payload.
func parse(body []byte) (e Envelope, ok bool) {
	line, rest, _ := bytes.Cut(body, []byte("\n"))
	if json.Unmarshal(line, &e.Header) != nil {
		return e, false
	}
	for len(bytes.TrimSpace(rest)) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		if strings.TrimSpace(string(line)) == "" {
			continue
		}
		item := Item{}
		if json.Unmarshal(line, &item.Header) != nil {
			return e, false
		}
		item.Type, _ = item.Header["type"].(string)
		if n, given := item.Header["length"].(float64); given {
			if int(n) > len(rest) || n < 0 {
				return e, false
			}
			item.Payload, rest = rest[:int(n)], rest[int(n):]
			rest = bytes.TrimPrefix(rest, []byte("\n"))
		} else {
			item.Payload, rest, _ = bytes.Cut(rest, []byte("\n"))
		}
		e.Items = append(e.Items, item)
	}
	return e, len(e.Items) > 0
}
