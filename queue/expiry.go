package queue

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// expireArtifacts is one pass of the loop queue.artifacts. Bytes go before the
// row that names them: a crash in between leaves a row whose bytes are deleted
// again, never bytes that nobody knows of. For the same reason both stay until
// the URLs to upload to that were handed out before are void.
func (q *Queue) expireArtifacts(ctx context.Context) (more bool, err error) {
	var list []*artifact
	err = q.db.View(ctx, func(tx *store.Tx) error {
		list, err = artifacts(tx, `SELECT `+artifactColumns+` FROM artifact WHERE expires <= $1 ORDER BY expires LIMIT $2`, deletable(), artifactBatch)
		return err
	})
	if err != nil {
		return false, err
	}
	return len(list) == artifactBatch, q.deleteArtifacts(ctx, list)
}

// artifactBatch is how many artifacts a pass deletes: as many as S3 deletes in
// one request.
const artifactBatch = 1000

// deletable is the expiry of what may be deleted by now. Until its row is gone
// such an artifact cannot be created again, or its new bytes would go, too.
func deletable() timestamp.Time { return now().Add(-putURLLife) }

func artifacts(tx *store.Tx, statement string, args ...any) (list []*artifact, err error) {
	rows, err := tx.Query(statement, args...)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		a, err := scanArtifact(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	return list, rows.Err()
}

func (q *Queue) deleteArtifacts(ctx context.Context, list []*artifact) error {
	var keys []string
	for _, a := range list {
		if a.StorageType != "s3" {
			continue
		}
		keys = append(keys, a.key())
		if a.upload != nil && !a.upload.Done {
			if err := q.artifacts.AbortMultipart(ctx, a.key(), a.upload.S3); err != nil {
				return err
			}
		}
	}
	if len(keys) > 0 {
		if err := q.artifacts.Delete(ctx, keys...); err != nil {
			return err
		}
	}
	var rows []string
	for _, a := range list {
		b, err := json.Marshal(map[string]any{"task": a.TaskID, "run": a.RunID, "name": a.Name})
		if err != nil {
			return err
		}
		rows = append(rows, string(b))
	}
	return q.db.Do(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`
			DELETE FROM artifact WHERE (task_id, run_id, name) IN (
			  SELECT value /*json*/ ->> 'task', CAST(value /*json*/ ->> 'run' AS BIGINT), value /*json*/ ->> 'name' FROM json_each($1))`, rows)
		return err
	})
}

// expireTasks is one pass of the loop queue.expiry. A task goes after its
// artifacts, which expire no later, and a group after its tasks. None goes
// before it has ended and what follows from that is done and told.
func (q *Queue) expireTasks(ctx context.Context) (more bool, err error) {
	due, err := q.due(ctx, `
		SELECT task_id FROM task WHERE expires <= $1 AND state IN ('completed', 'failed', 'exception')
		   AND NOT EXISTS (SELECT 1 FROM artifact WHERE artifact.task_id = task.task_id)
		   AND NOT EXISTS (SELECT 1 FROM resolution WHERE resolution.task_group_id = task.task_group_id)
		 ORDER BY expires LIMIT $2`, now())
	if err != nil {
		return false, err
	}
	err = q.db.Do(ctx, func(tx *store.Tx) error {
		// Only if it has not been run again meanwhile.
		slices.Sort(due)
		if _, err := tx.ExecEach(`DELETE FROM task WHERE task_id = $1 AND state IN ('completed', 'failed', 'exception')`, keys(due)); err != nil {
			return err
		}
		if _, err := tx.ExecEach(`DELETE FROM dependency WHERE task_id = $1 AND NOT EXISTS (SELECT 1 FROM task WHERE task.task_id = $1)`, keys(due)); err != nil {
			return err
		}
		_, err := tx.Exec(`
			DELETE FROM task_group WHERE expires <= $1
			   AND NOT EXISTS (SELECT 1 FROM task WHERE task.task_group_id = task_group.task_group_id)`, now())
		return err
	})
	return len(due) == batch, err
}

// abandonedAfter is how old an upload in parts has to be for nobody to finish
// it: its URLs are long void, and its run has ended or has begun another.
const abandonedAfter = 24 * time.Hour

// abortUploads is one pass of the loop queue.uploads. It frees the parts of
// uploads that were begun and neither finished nor expired with their artifact.
func (q *Queue) abortUploads(ctx context.Context) (more bool, err error) {
	for u, err := range q.artifacts.Uploads(ctx, "") {
		if err != nil {
			return false, err
		}
		if time.Since(u.Started) < abandonedAfter {
			continue
		}
		if err := q.artifacts.AbortMultipart(ctx, u.Key, u.ID); err != nil && !errors.Is(err, blob.ErrNoUpload) {
			return false, err
		}
		q.log.Info("an upload that nobody finished was removed", "key", u.Key, "started", u.Started)
	}
	return false, nil
}
