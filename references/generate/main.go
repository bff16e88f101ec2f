// Command generate writes the references and schemas of all services to the
// folder above it, and pages of them for people to docs beside that.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/auth"
	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/audit"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/hooks"
	"github.com/taskfleet/taskfleet/index"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/mirror"
	"github.com/taskfleet/taskfleet/notify"
	"github.com/taskfleet/taskfleet/object"
	"github.com/taskfleet/taskfleet/provisioner"
	"github.com/taskfleet/taskfleet/purgecache"
	"github.com/taskfleet/taskfleet/queue"
	"github.com/taskfleet/taskfleet/schedule"
	"github.com/taskfleet/taskfleet/secrets"
)

func main() {
	dir := "."
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	if err := write(dir); err != nil {
		fmt.Fprintln(os.Stderr, "generate references:", err)
		os.Exit(1)
	}
}

// write replaces the JSON files below dir by what the declarations say now.
func write(dir string) error {
	s := api.NewServer(api.Options{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	// Nothing is called, so no service needs to exist.
	if err := errors.Join(
		api.Mount(s, auth.API, nil), api.Mount(s, queue.API, nil), api.Mount(s, provisioner.API, nil),
		api.Mount(s, provisioner.Operations, nil),
		api.Mount(s, event.API, nil), api.Mount(s, loop.API, nil), api.Mount(s, schedule.API, nil),
		api.Mount(s, hooks.API, nil), api.Mount(s, index.API, nil), api.Mount(s, secrets.API, nil),
		api.Mount(s, purgecache.API, nil), api.Mount(s, object.API, nil), api.Mount(s, notify.API, nil),
		api.Mount(s, mirror.API, nil), api.Mount(s, credentials.API, nil), api.Mount(s, audit.API, nil),
	); err != nil {
		return err
	}
	docs, err := s.Published("")
	if err != nil {
		return err
	}
	if err := clean(dir); err != nil {
		return err
	}
	for path, doc := range docs {
		file := filepath.Join(dir, filepath.FromSlash(strings.TrimPrefix(path, "/references/")))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		b, err := json.MarshalIndent(doc, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	pages := filepath.Join(dir, "..", "docs")
	if _, err := os.Stat(pages); errors.Is(err, fs.ErrNotExist) {
		return nil // not in a checkout
	}
	return writeDocs(pages, docs)
}

// writeDocs replaces the pages that are made of the references.
func writeDocs(dir string, published map[string]any) error {
	made, err := pages(published)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(dir, "api")); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "api"), 0o755); err != nil {
		return err
	}
	for name, text := range made {
		if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(name)), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// clean removes what an earlier run wrote, so that nothing outlives its
// declaration. Where there is something else it removes nothing.
func clean(dir string) error {
	if files, err := os.ReadDir(dir); err != nil || len(files) == 0 {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "manifest.json")); err != nil {
		return fmt.Errorf("%s is not where references are: run it there, or name the directory: %w", dir, err)
	}
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".json" {
			return err
		}
		return os.Remove(path)
	})
}
