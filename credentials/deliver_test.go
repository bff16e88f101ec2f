package credentials

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

func TestEveryReplicaGetsItsFilesAndCommands(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		dir := t.TempDir()
		file, seen := filepath.Join(dir, "password"), filepath.Join(dir, "seen")
		script := filepath.Join(dir, "reload")
		if err := os.WriteFile(script, []byte("#!/bin/sh\n[ -e "+dir+"/away ] && { cat >&2; exit 1; }\ncat > "+seen+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		uses := []Use{{Name: "proxy", File: file, Member: "password"}, {Name: "reload", Command: []string{script}}}
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Overlap: 10 * hours, Grace: time.Minute, Consumers: uses})
		w.run(time.Minute)
		text, err := os.ReadFile(file)
		info, _ := os.Stat(file)
		if err != nil || string(text) != planted || info.Mode() != 0o600 {
			t.Errorf("the file has %q, %v, %v", text, info.Mode(), err)
		}
		if text, err := os.ReadFile(seen); err != nil || !strings.Contains(string(text), `"action":"publish"`) || !strings.Contains(string(text), planted) {
			t.Errorf("the command was given %q, %v", text, err)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		w.run(time.Minute)
		if text, err := os.ReadFile(file); err != nil || string(text) != planted {
			t.Errorf("a file that was removed has %q, %v", text, err)
		}

		// A command that fails says so without the secret, and is run again.
		if err := os.WriteFile(filepath.Join(dir, "away"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		config := w.config
		config.Replica = "two"
		two := w.start(config)
		if err := pass(t.Context(), two, "deliver"); err == nil {
			t.Error("a command that fails is no error")
		}
		if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.run(2 * time.Minute)
		v := w.is("db", Rotating, "waits for proxy, reload")
		for _, u := range v.Consumers {
			if u.Name == "reload" && (u.Error == "" || strings.Contains(u.Error, planted)) {
				t.Errorf("the command's failure is told as %q", u.Error)
			}
		}
		if err := os.Remove(filepath.Join(dir, "away")); err != nil {
			t.Fatal(err)
		}
		if err := w.Consumed(t.Context(), "db", "proxy", ""); err != nil {
			t.Fatal(err)
		}
		w.run(0)
		w.is("db", Rotating, "waits for reload") // the other replica has yet to run it
		if err := pass(t.Context(), two, "deliver"); err != nil {
			t.Fatal(err)
		}
		w.run(3 * time.Minute)
		w.is("db", Good)
	})
}

func TestAPartOfThePlatformGetsItAfterARestart(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		given := 0
		w := newWorld(t, db)
		w.config.Platform = map[string]Part{"sentry": func(context.Context, string, json.RawMessage) error { given++; return nil }}
		w.config.Definitions = []Definition{{Name: "dsn", Kind: "mint", Consumers: []Use{{Name: "self", Platform: "sentry"}}}}
		w.Credentials = w.start(w.config)
		w.run(2 * time.Minute)
		if given != 1 {
			t.Errorf("it was given %d times", given)
		}
		w.Credentials = w.start(w.config)
		w.run(2 * time.Minute)
		if given != 2 {
			t.Errorf("after a restart it was given %d times", given)
		}
	})
}
