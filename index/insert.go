package index

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// insert puts tasks at their paths, in this order, where they do not find tasks
// of higher rank, and sees to it that there are the namespaces above them. What
// has expired already is not inserted: nobody would find it, and it would take
// the place of what can be found.
func insert(tx *store.Tx, list []entry) error {
	now := timestamp.Now()
	best := map[string]entry{} // a statement cannot write a row twice
	for _, e := range list {
		if old, ok := best[e.Path]; e.Expires > now && (!ok || old.Rank <= e.Rank) {
			best[e.Path] = e
		}
	}
	if len(best) == 0 {
		return nil
	}
	values, err := jsonOf(slices.SortedFunc(maps.Values(best), func(a, b entry) int { return cmp.Compare(a.Path, b.Path) }),
		func(e entry) any {
			return map[string]any{"path": e.Path, "parent": parent(e.Path), "rank": e.Rank, "task": e.TaskID, "data": string(e.Data), "expires": int64(e.Expires)}
		})
	if err != nil {
		return err
	}
	rows, err := tx.Query(`
		INSERT INTO index_task (path, parent, rank, task_id, data, expires)
		SELECT value /*json*/ ->> 'path', value /*json*/ ->> 'parent', CAST(value /*json*/ ->> 'rank' AS DOUBLE PRECISION),
		       value /*json*/ ->> 'task', value /*json*/ ->> 'data', CAST(value /*json*/ ->> 'expires' AS BIGINT)
		  FROM json_each($1) WHERE true ORDER BY 1
		ON CONFLICT (path) DO UPDATE SET
		  rank = excluded.rank, task_id = excluded.task_id, data = excluded.data, expires = excluded.expires
		 WHERE index_task.rank <= excluded.rank OR index_task.expires <= $2
		RETURNING path`, values, now)
	if err != nil {
		return err
	}
	above := map[string]timestamp.Time{}
	for rows.Next() {
		var path string
		if err := rows.Scan(&path); err != nil {
			return err
		}
		until := endOfDay(best[path].Expires)
		for ns := parent(path); ns != ""; ns = parent(ns) {
			above[ns] = max(above[ns], until)
		}
	}
	if err := rows.Err(); err != nil || len(above) == 0 {
		return err
	}
	return extend(tx, above)
}

// extend makes namespaces last until the given times, at least. One that does
// already is not touched: to write it in vain would lock it against everybody
// else who inserts below.
func extend(tx *store.Tx, until map[string]timestamp.Time) error {
	values, err := jsonOf(slices.Sorted(maps.Keys(until)), func(path string) any {
		return map[string]any{"path": path, "parent": parent(path), "expires": int64(until[path])}
	})
	if err != nil {
		return err
	}
	// A subquery for each path, not a NOT EXISTS, which PostgreSQL makes a join
	// of: by a plan that it may have made when the table was empty.
	_, err = tx.Exec(`
		INSERT INTO index_namespace (path, parent, expires)
		SELECT value /*json*/ ->> 'path', value /*json*/ ->> 'parent', CAST(value /*json*/ ->> 'expires' AS BIGINT)
		  FROM json_each($1)
		 WHERE CAST(value /*json*/ ->> 'expires' AS BIGINT) >
		       coalesce((SELECT n.expires FROM index_namespace AS n WHERE n.path = value /*json*/ ->> 'path'), 0)
		 ORDER BY 1
		ON CONFLICT (path) DO UPDATE SET expires = excluded.expires WHERE index_namespace.expires < excluded.expires`, values)
	return err
}

// jsonOf is a list as a parameter of json_each.
func jsonOf[T any](list []T, form func(T) any) ([]string, error) {
	out := make([]string, len(list))
	for i, x := range list {
		b, err := json.Marshal(form(x))
		if err != nil {
			return nil, err
		}
		out[i] = string(b)
	}
	return out, nil
}

// endOfDay is the next midnight after t, in UTC.
func endOfDay(t timestamp.Time) timestamp.Time {
	return min(timestamp.Of(t.Time().Truncate(24*time.Hour)).Add(24*time.Hour), timestamp.Max)
}
