package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/task"
)

// A mirrorSet is what a sync moves: the artifacts of tasks and groups, or what is
// at URLs.
type mirrorSet struct {
	tasks, groups, patterns []string
	urls                    string // a file, "-" for standard input

	skipped atomic.Int64 // artifacts that have no bytes of their own
	running atomic.Int64 // tasks that are not resolved, whose artifacts may change
}

// A wanted is one thing of a set.
type wanted struct {
	URL    string `json:"u,omitempty"`
	TaskID string `json:"t,omitempty"`
	RunID  int    `json:"r,omitempty"`
	Name   string `json:"n,omitempty"`
	Size   int64  `json:"s"` // -1: not known
}

// url is what the mirror is asked for it by.
func (w *wanted) url(s *session) string {
	if w.URL != "" {
		return w.URL
	}
	return artifactURL(s, w.TaskID, w.RunID, w.Name)
}

// String is it as people write it.
func (w *wanted) String() string {
	if w.URL != "" {
		return withoutQuery(w.URL)
	}
	return fmt.Sprintf("%s/%d/%s", w.TaskID, w.RunID, w.Name)
}

func (m *mirrorSet) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&m.tasks, "task", nil, "id of a task, the artifacts of whose latest run are moved; may be repeated")
	f.StringArrayVar(&m.groups, "task-group", nil, "id of a task group, likewise for all its tasks; may be repeated")
	f.StringArrayVar(&m.patterns, "artifact", nil, "only artifacts with names like this; * stands for any text; may be repeated")
	f.StringVar(&m.urls, "urls", "", "a file with URLs, one a line; - for standard input")
}

func (m *mirrorSet) check() error {
	switch {
	case len(m.tasks) == 0 && len(m.groups) == 0 && m.urls == "":
		return usagef("what is to be moved? Give --task ID, --task-group ID or --urls FILE")
	case m.urls != "" && len(m.tasks)+len(m.groups) > 0:
		return usagef("--urls does not go together with --task and --task-group; make it two calls")
	case m.urls != "" && len(m.patterns) > 0:
		return usagef("--artifact narrows down the artifacts of tasks; it does not go together with --urls")
	}
	for _, id := range slices.Concat(m.tasks, m.groups) {
		if !slugid.Valid(id) {
			return usagef("%q is no task id; those have 22 characters, such as fN1SbArXTPSVFNUvaOlinQ", id)
		}
	}
	return nil
}

// list yields the set, from several lists at a time. It returns when the set is
// complete, or with the first error.
func (m *mirrorSet) list(ctx context.Context, s *session, in io.Reader, yield func(...wanted) error) error {
	if m.urls != "" {
		return m.listURLs(in, yield)
	}
	const atATime = 8
	q := queue.New(s.core)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	tasks := make(chan queue.TaskStatus)
	var workers sync.WaitGroup
	for range atATime {
		workers.Go(func() {
			for t := range tasks {
				if err := m.listTask(ctx, q, &t, yield); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	err := m.eachTask(ctx, q, func(t queue.TaskStatus) error {
		select {
		case tasks <- t:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	close(tasks)
	workers.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// eachTask calls f for the tasks whose artifacts do not change any more.
func (m *mirrorSet) eachTask(ctx context.Context, q *queue.Client, f func(queue.TaskStatus) error) error {
	see := func(t queue.TaskStatus) error {
		if !task.State(t.State).Resolved() {
			m.running.Add(1)
			return nil
		}
		if len(t.Runs) == 0 {
			return nil
		}
		return f(t)
	}
	for _, id := range m.tasks {
		reply, err := q.Status(ctx, id)
		if err != nil {
			return noSuchTask(err, id)
		}
		if err := see(reply.Status); err != nil {
			return err
		}
	}
	for _, id := range m.groups {
		for t, err := range q.ListTaskGroupAll(ctx, id, queue.ListTaskGroupOptions{}) {
			if client.IsNotFound(err) {
				err = fmt.Errorf("there is no task group %s here, or it has expired: %w", id, err)
			}
			if err == nil {
				err = see(t.Status)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// listTask yields the artifacts of a task's latest run. A run that has expired
// meanwhile has none.
func (m *mirrorSet) listTask(ctx context.Context, q *queue.Client, t *queue.TaskStatus, yield func(...wanted) error) error {
	run := t.Runs[len(t.Runs)-1].RunID
	var list []wanted
	for a, err := range q.ListArtifactsAll(ctx, t.TaskID, run, queue.ListArtifactsOptions{}) {
		if client.IsNotFound(err) {
			break
		} else if err != nil {
			return err
		}
		switch {
		case len(m.patterns) > 0 && !slices.ContainsFunc(m.patterns, func(p string) bool { return fitsPattern(p, a.Name) }):
			continue
		case a.StorageType != "s3":
			m.skipped.Add(1)
			continue
		}
		w := wanted{TaskID: t.TaskID, RunID: run, Name: a.Name, Size: -1}
		if a.ContentLength != nil {
			w.Size = *a.ContentLength
		}
		if list = append(list, w); len(list) == most {
			if err := yield(list...); err != nil {
				return err
			}
			list = nil
		}
	}
	return yield(list...)
}

// longestLine is far more than any server takes for a URL.
const longestLine = 64 << 10

func (m *mirrorSet) listURLs(in io.Reader, yield func(...wanted) error) error {
	name := "standard input"
	if m.urls != "-" {
		f, err := os.Open(m.urls)
		if err != nil {
			return fmt.Errorf("reading the URLs: %w", err)
		}
		defer f.Close()
		in, name = f, m.urls
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, longestLine)
	n := 0
	for lines.Scan() {
		n++
		text := strings.TrimSpace(lines.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		if u, err := url.Parse(text); err != nil || u.Scheme == "" || u.Host == "" {
			return fmt.Errorf("%s:%d: %q is no URL. Give one a line, such as https://example.com/file or s3://BUCKET/KEY", name, n, clip(text, 80))
		}
		if err := yield(wanted{URL: text, Size: -1}); err != nil {
			return err
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("%s:%d: the line is longer than %s", name, n+1, bytesOf(longestLine))
	} else if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	return nil
}

// fitsPattern reports whether a text is like a pattern, in which * stands for
// any text, slashes included, as it does in routes.
func fitsPattern(pattern, text string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == text
	}
	text, ok := strings.CutPrefix(text, first)
	pieces := strings.Split(rest, "*")
	for _, piece := range pieces[:len(pieces)-1] {
		if ok {
			_, text, ok = strings.Cut(text, piece)
		}
	}
	return ok && strings.HasSuffix(text, pieces[len(pieces)-1])
}
