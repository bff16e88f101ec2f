package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// kept is a registration as it outlives the process, in <directory>/registration.json,
// which only the worker's user can read. It says whose it is, so that an image
// made of a machine that had one does no harm.
type kept struct {
	RootURL      string `json:"rootUrl"`
	WorkerPoolID string `json:"workerPoolId"`
	WorkerGroup  string `json:"workerGroup"`
	WorkerID     string `json:"workerId"`
	registration
}

func (w *Worker) keptFile() string { return filepath.Join(w.config.Directory, "registration.json") }

// recall finds the registration that a worker before this one has kept, and
// reports whether there is one that is of use.
func (w *Worker) recall() (bool, error) {
	if !w.config.keep {
		return false, nil
	}
	text, err := os.ReadFile(w.keptFile())
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("worker: %w", err)
	}
	var k kept
	if err := json.Unmarshal(text, &k); err != nil {
		w.log.Warn("the registration that was kept cannot be read; registering anew", "file", w.keptFile())
		return false, nil
	}
	c := w.config
	if k.RootURL != c.RootURL || k.WorkerPoolID != c.WorkerPoolID || k.WorkerGroup != c.WorkerGroup || k.WorkerID != c.WorkerID {
		w.log.Info("the registration that was kept is another worker's; registering anew", "its", k.WorkerID)
		return false, nil
	}
	w.log.Info("going on after a worker that was killed", "credentialsExpire", k.Expires)
	w.registered = k.registration
	w.core.SetCredentials(k.Credentials)
	return true, nil
}

// retain writes a registration so that there is always a whole one.
func (w *Worker) retain(r registration) error {
	c := w.config
	text, err := json.Marshal(kept{c.RootURL, c.WorkerPoolID, c.WorkerGroup, c.WorkerID, r})
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(c.Directory, "registration-*") // with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // unless it has been renamed
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), w.keptFile())
}
