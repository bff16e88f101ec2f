package queue

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/task"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A Log is an artifact that looks like the log of a run that has ended.
type Log struct {
	TaskID   string
	RunID    int
	Name     string
	Resolved timestamp.Time // the run
	Key      string         // in the artifact bucket; "" if it is an object of the object service
	Object   string         // its name there
}

// Logs returns logs of runs that were resolved since a time, of some of the tasks
// whose ids come after one; and which the last of these was, "" at the end. Tasks
// come in the order of their ids.
//
// No index is kept by when tasks were resolved, as that would cost each of them
// something: all tasks are read whose deadline is later.
func (q *Queue) Logs(ctx context.Context, since timestamp.Time, after string, limit int) (list []Log, next string, err error) {
	err = q.db.View(ctx, func(tx *store.Tx) error {
		list, next = nil, ""
		rows, err := tx.Query(`SELECT task_id, runs FROM task WHERE task_id > $1 AND deadline >= $2 ORDER BY task_id LIMIT $3`, after, since, limit)
		if err != nil {
			return err
		}
		resolved := map[string]map[int]timestamp.Time{}
		n := 0
		for rows.Next() {
			var id string
			var text json.RawMessage
			if err := rows.Scan(&id, &text); err != nil {
				return err
			}
			var runs []task.Run
			if err := json.Unmarshal(text, &runs); err != nil {
				return err
			}
			for _, r := range runs {
				if r.Resolved < since || r.Resolved.IsZero() {
					continue
				}
				if resolved[id] == nil {
					resolved[id] = map[int]timestamp.Time{}
				}
				resolved[id][r.RunID] = r.Resolved
			}
			n, next = n+1, id
		}
		if err := rows.Err(); err != nil {
			return err
		}
		if n < limit {
			next = ""
		}
		if len(resolved) == 0 {
			return nil
		}
		ids := make([]string, 0, len(resolved))
		for id := range resolved {
			ids = append(ids, id)
		}
		rows, err = tx.Query(`SELECT `+artifactColumns+` FROM artifact
			 WHERE task_id IN (SELECT value FROM json_each($1)) AND storage_type IN ('s3', 'object') AND expires > $2`, ids, now())
		if err != nil {
			return err
		}
		for rows.Next() {
			a, err := scanArtifact(rows)
			if err != nil {
				return err
			}
			at := resolved[a.TaskID][a.RunID]
			if at.IsZero() || a.unfinished() || !looksLikeLog(a.Name, a.ContentType) {
				continue
			}
			l := Log{TaskID: a.TaskID, RunID: a.RunID, Name: a.Name, Resolved: at}
			if a.StorageType == "s3" {
				l.Key = a.key()
			} else {
				l.Object = a.objectName()
			}
			list = append(list, l)
		}
		slices.SortFunc(list, func(x, y Log) int {
			return cmp.Or(cmp.Compare(x.TaskID, y.TaskID), cmp.Compare(x.RunID, y.RunID), cmp.Compare(x.Name, y.Name))
		})
		return rows.Err()
	})
	return list, next, err
}

// looksLikeLog tells that people would take an artifact for a log.
func looksLikeLog(name, contentType string) bool {
	name = strings.ToLower(name)
	base := strings.TrimSuffix(strings.TrimSuffix(name, ".gz"), ".txt")
	if strings.HasSuffix(base, ".log") {
		return true
	}
	return strings.HasPrefix(contentType, "text/") && (strings.Contains(name, "/logs/") || strings.HasPrefix(name, "logs/"))
}
