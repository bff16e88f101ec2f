package queue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/task"
)

// A resolution is a resolved task that has to be followed up.
type resolution struct {
	id                        int64
	taskID, groupID, position string
	completed                 int64
	failures                  int // to follow it up
}

// followResolutions is one pass of the loop queue.dependencies. It takes the
// oldest resolutions, satisfies the edges that lead to them, and when none are
// left looks whether the group has ended. A transaction follows up several
// resolutions, but no more than about a batch of edges. If one fails, each of
// them gets a transaction of its own, and those that fail are set aside: what is
// wrong with one task is no reason for the graphs of others to stand still.
func (q *Queue) followResolutions(ctx context.Context) (more bool, err error) {
	var list []resolution
	err = q.change(ctx, func(c *changes) error {
		if list, err = oldestResolutions(c.tx); err != nil {
			return err
		}
		err := c.follow(list)
		more = len(list) == resolutionsTogether || slices.ContainsFunc(list, func(r resolution) bool { return r.position != end })
		return err
	})
	if err == nil || len(list) == 0 || ctx.Err() != nil {
		return more, err
	}
	return true, q.followApart(ctx, list)
}

// followApart follows up resolutions each by itself.
func (q *Queue) followApart(ctx context.Context, list []resolution) (failed error) {
	for _, r := range list {
		err := q.change(ctx, func(c *changes) error {
			r, err := resolutionNow(c.tx, r.id)
			if err != nil {
				return err
			}
			return c.follow([]resolution{r})
		})
		if err == nil || isNotFound(err) { // another replica was faster
			continue
		}
		if ctx.Err() != nil {
			return err
		}
		failed = errors.Join(failed, q.setAside(ctx, r, err))
	}
	return failed
}

const (
	firstRetry = 5 * time.Second // of a resolution that failed; doubled with each further failure
	lastRetry  = 10 * time.Minute
)

// setAside has a resolution wait for another attempt, and says why. It fails
// where the database does, not where the resolution did.
func (q *Queue) setAside(ctx context.Context, r resolution, why error) error {
	wait := min(firstRetry<<min(r.failures, 10), lastRetry)
	err := q.db.Do(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`UPDATE resolution SET failures = failures + 1, due = $2 WHERE id = $1`, r.id, now().Add(wait))
		return err
	})
	if err != nil {
		return fmt.Errorf("following up task %s: %w", r.taskID, errors.Join(why, err))
	}
	q.log.Error("what follows from a task's end could not be done; it is tried again, and other tasks go on meanwhile",
		"taskId", r.taskID, "taskGroupId", r.groupID, "failures", r.failures+1, "again", wait, "err", why)
	return nil
}

const resolutionColumns = `id, task_id, task_group_id, completed, position, failures`

func scanResolution(row scanner) (r resolution, err error) {
	err = row.Scan(&r.id, &r.taskID, &r.groupID, &r.completed, &r.position, &r.failures)
	return r, err
}

func resolutionNow(tx *store.Tx, id int64) (resolution, error) {
	return scanResolution(tx.QueryRow(`SELECT `+resolutionColumns+` FROM resolution WHERE id = $1 /*for update*/`, id))
}

// resolutionsTogether is how many resolutions a pass follows up.
const resolutionsTogether = 100

func oldestResolutions(tx *store.Tx) (list []resolution, err error) {
	rows, err := tx.Query(`SELECT `+resolutionColumns+` FROM resolution WHERE due <= $1 ORDER BY id LIMIT $2 /*for update*/`, now(), resolutionsTogether)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		r, err := scanResolution(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, rows.Err()
}

// An edge leads from a resolved task to one that depends on it.
type edge struct{ required, dependent string }

// follow satisfies up to a batch of edges and has those tasks run that waited
// for nothing else. What is left of a resolution is for the next time.
func (c *changes) follow(list []resolution) error {
	if len(list) == 0 {
		return nil
	}
	edges, err := c.openEdges(list)
	if err != nil {
		return err
	}
	var ids []string
	for _, e := range edges {
		ids = append(ids, e.dependent)
	}
	dependents, err := lockAll(c.tx, ids, false)
	if err != nil {
		return err
	}
	if err := c.satisfy(edges, dependents); err != nil {
		return err
	}
	return c.finish(list)
}

// openEdges lists the edges by which resolutions bring other tasks nearer to
// running, and moves the resolutions' positions behind them. A position of the
// end says that there are no more.
func (c *changes) openEdges(list []resolution) (edges []edge, err error) {
	limit := max(batch/len(list), 2)
	counts := make([]int, len(list))
	rows := make([][]any, len(list))
	for i, r := range list {
		rows[i] = []any{r.taskID, r.position, r.completed, limit}
	}
	err = c.tx.QueryEach(`
		SELECT task_id FROM dependency
		 WHERE required = $1 AND task_id > $2 AND satisfied = 0 AND (on_any = 1 OR $3 = 1)
		 ORDER BY task_id LIMIT $4`, rows, func(i int, row store.Scanner) error {
		e := edge{required: list[i].taskID}
		err := row.Scan(&e.dependent)
		edges = append(edges, e)
		list[i].position = e.dependent
		counts[i]++
		return err
	})
	for i := range list {
		if counts[i] < limit {
			list[i].position = end
		}
	}
	return edges, err
}

// end is the position of a resolution that leads nowhere any more.
const end = "~"

// satisfy marks edges and schedules the dependents for which they were the last
// open ones.
func (c *changes) satisfy(edges []edge, dependents map[string]*record) error {
	var marks, waiting [][]any
	var ids []string
	seen := map[string]bool{}
	for _, e := range edges {
		r := dependents[e.dependent]
		if r == nil {
			continue // it has expired
		}
		marks = append(marks, []any{e.dependent, e.required})
		if r.State == task.Unscheduled && !seen[e.dependent] { // else it was canceled, or scheduled by hand
			seen[e.dependent] = true
			ids = append(ids, e.dependent)
		}
	}
	if err := c.tx.LaterEach(`UPDATE dependency SET satisfied = 1, waits = 0 WHERE task_id = $1 AND required = $2`, marks, nil); err != nil {
		return err
	}
	open := make([][]string, len(ids))
	if err := c.tx.QueryEach(`SELECT required FROM dependency WHERE task_id = $1 AND satisfied = 0 LIMIT 2`, keys(ids), func(i int, row store.Scanner) error {
		var required string
		err := row.Scan(&required)
		open[i] = append(open[i], required)
		return err
	}); err != nil {
		return err
	}
	for i, id := range ids {
		switch len(open[i]) {
		case 0:
			c.restart(dependents[id], task.Scheduled)
		case 1:
			waiting = append(waiting, []any{id, open[i][0]})
		}
	}
	return c.tx.LaterEach(`UPDATE dependency SET waits = 1 WHERE task_id = $1 AND required = $2`, waiting, nil)
}

// finish deletes the resolutions that are followed up, and looks whether the
// groups of their tasks have ended.
func (c *changes) finish(list []resolution) error {
	var done, left [][]any
	groups := map[string]bool{}
	for _, r := range list {
		if r.position != end {
			left = append(left, []any{r.id, r.position})
			continue
		}
		done = append(done, []any{r.id})
		groups[r.groupID] = true
	}
	if err := c.tx.LaterEach(`UPDATE resolution SET position = $2 WHERE id = $1`, left, nil); err != nil {
		return err
	}
	if err := c.tx.LaterEach(`DELETE FROM resolution WHERE id = $1`, done, nil); err != nil {
		return err
	}
	return c.checkGroups(slices.Sorted(maps.Keys(groups)))
}
