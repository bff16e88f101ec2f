package audit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	readers     = 2 // logs at a time
	logPage     = 1000
	mostLogs    = 200_000
	logLimit    = 256 << 20 // bytes of text of one log
	searchLimit = 20 * time.Minute
)

// A search looks through logs for secrets.
type search struct {
	index    *index
	progress func(Progress)

	mu       sync.Mutex
	now      Progress
	left     int64 // bytes that may be read
	cut      int   // logs that go on
	skipped  int   // that were not read at all
	failed   int   // that cannot be read
	findings map[string]*Finding
	order    []string
}

// leaks looks through the logs of tasks that were resolved lately, the latest first.
func (a *Audit) leaks(ctx context.Context, o Options, now timestamp.Time, progress func(Progress)) (found []Finding, notes []string, err error) {
	progress(Progress{Step: "reading secrets"})
	x, err := a.fill(ctx)
	if err != nil {
		return nil, nil, err
	}
	progress(Progress{Step: "listing logs"})
	var logs []Log
	for after := ""; len(logs) < mostLogs; {
		page, next, err := a.config.Logs.Logs(ctx, now.Add(-time.Duration(o.Hours)*time.Hour), after, logPage)
		if err != nil {
			return nil, nil, err
		}
		if logs = append(logs, page...); next == "" {
			break
		}
		after = next
	}
	slices.SortFunc(logs, func(x, y Log) int {
		return cmp.Or(cmp.Compare(y.Resolved, x.Resolved), cmp.Compare(x.TaskID, y.TaskID), cmp.Compare(x.RunID, y.RunID), cmp.Compare(x.Name, y.Name))
	})
	s := &search{index: x, progress: progress, left: o.MaxBytes, findings: map[string]*Finding{}, now: Progress{Step: "reading logs", Logs: len(logs)}}
	limited, cancel := context.WithTimeout(ctx, searchLimit)
	defer cancel()
	if err := s.all(limited, ctx, logs, a.config.Logs.Open); err != nil {
		return nil, nil, err
	}
	for _, id := range s.order {
		f := s.findings[id]
		slices.SortStableFunc(f.Places, func(x, y Place) int {
			return cmp.Or(cmp.Compare(x.TaskID, y.TaskID), cmp.Compare(x.RunID, y.RunID), cmp.Compare(x.Name, y.Name))
		})
		found = append(found, *f)
	}
	return found, s.notes(o), nil
}

// fill makes the index of what is looked for. What is rotated comes first, as a
// finding names where a secret is from that it finds first.
func (a *Audit) fill(ctx context.Context) (*index, error) {
	x := newIndex()
	if err := a.config.Credentials.EachSecret(ctx, func(name, version string, secret json.RawMessage) {
		x.addJSON(secret, Source{"credential", name, version})
	}); err != nil {
		return nil, err
	}
	if err := a.config.Clients.EachToken(func(clientID, id, token string) {
		x.add(token, Source{"client", clientID, id}, true)
	}); err != nil {
		return nil, err
	}
	if err := a.config.Secrets.Each(ctx, func(name string, value json.RawMessage) {
		x.addJSON(value, Source{Kind: "secret", Name: name})
	}); err != nil {
		return nil, err
	}
	x.ready()
	return x, nil
}

// all reads logs, a few at a time, until that takes too long: limited ends then, but
// not ctx.
func (s *search) all(limited, ctx context.Context, logs []Log, open func(context.Context, Log) (io.ReadCloser, error)) error {
	next := make(chan Log)
	var wait sync.WaitGroup
	for range readers {
		wait.Go(func() {
			for l := range next {
				s.one(limited, l, open)
			}
		})
	}
	for _, l := range logs {
		select {
		case next <- l:
		case <-limited.Done():
			s.mu.Lock()
			s.skipped++
			s.mu.Unlock()
		}
	}
	close(next)
	wait.Wait()
	return ctx.Err()
}

func (s *search) one(ctx context.Context, l Log, open func(context.Context, Log) (io.ReadCloser, error)) {
	s.mu.Lock()
	limit := min(s.left, logLimit)
	if limit <= 0 || ctx.Err() != nil {
		s.skipped++
		s.mu.Unlock()
		return
	}
	s.left -= limit
	s.mu.Unlock()
	var out scanned
	body, err := open(ctx, l)
	if err == nil {
		out, err = s.index.scan(ctx, body, limit)
		body.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left += limit - out.bytes
	s.now.Bytes += out.bytes
	s.now.LogsDone++
	switch {
	case errors.Is(err, ErrGone):
		// deleted meanwhile: nobody can read it any more
	case err != nil:
		s.failed++
	case out.cut:
		s.cut++
	}
	for _, h := range out.hits {
		s.note(h, l)
	}
	s.now.Findings = len(s.findings)
	s.progress(s.now)
}

// note makes of a hit a finding, or one more place of one: a secret is a finding,
// and so is each log that has something which looks like one.
func (s *search) note(h hit, l Log) {
	rule, subject, message := ruleLeaked, "", ""
	if h.shape != nil {
		rule = h.shape.rule
		subject = fmt.Sprintf("log %s/%d/%s", l.TaskID, l.RunID, l.Name)
		message = fmt.Sprintf("It has %s.", h.shape.what)
	} else {
		from := s.index.sources[h.source]
		subject = from.Kind + " " + from.Name
		switch from.Kind {
		case "credential":
			message = "A secret of a version of it that works is in a log of a task."
		case "client":
			message = "An access token of it is in a log of a task."
		case "secret":
			message = "Its value, or a part of it, is in a log of a task."
		}
	}
	f := s.findings[rule+" "+subject]
	if f == nil {
		if len(s.order) >= mostFindings {
			return
		}
		made := finding(rule, subject, "%s", message)
		f = &made
		s.findings[f.ID] = f
		s.order = append(s.order, f.ID)
	}
	p := Place{TaskID: l.TaskID, RunID: l.RunID, Name: l.Name, Line: h.line, Count: h.count, Form: h.form}
	for i := range f.Places {
		if q := &f.Places[i]; q.TaskID == p.TaskID && q.RunID == p.RunID && q.Name == p.Name {
			q.Count += p.Count
			q.Line = min(q.Line, p.Line)
			return
		}
	}
	if len(f.Places) == mostPlaces {
		f.More++
		return
	}
	f.Places = append(f.Places, p)
}

// notes say what was looked at, and what was not.
func (s *search) notes(o Options) []string {
	text := fmt.Sprintf("%d of %d logs of the last %d hours were looked through, %d KiB of text, for %d texts.",
		s.now.LogsDone-s.failed, s.now.Logs, o.Hours, (s.now.Bytes+1023)>>10, s.index.looked)
	if s.skipped > 0 {
		text += fmt.Sprintf(" %d, the oldest ones, were not: there is a limit of %d MiB and %s.", s.skipped, o.MaxBytes>>20, searchLimit)
	}
	if s.now.Logs >= mostLogs {
		text += fmt.Sprintf(" There are more than %d logs, which are not counted.", mostLogs)
	}
	if s.cut > 0 {
		text += fmt.Sprintf(" %d were not read to their end.", s.cut)
	}
	if s.failed > 0 {
		text += fmt.Sprintf(" %d could not be read to their end.", s.failed)
	}
	list := []string{text}
	if s.index.left > 0 {
		list = append(list, fmt.Sprintf("%d texts in secrets were not looked for, since they have fewer than %d characters, look like names, words or addresses, or are more than %d lines of one text or %d in all.", s.index.left, window, mostLines, mostTexts))
	}
	return list
}
