package queue

import (
	"context"
	"encoding/json"
	"fmt"

	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/task"
)

// Replicas that lengthen the life of a group at the same time do not wait for
// each other in a circle, which PostgreSQL notices only after a second.
func TestReplicasLengthenTheLifeOfAGroup(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, url string) {
		replicas := startReplicas(t, url, 2)
		group := slugid.New()
		for round := range 60 {
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					d := definition()
					d.TaskGroupID = group
					d.Expires = d.Expires.Add(time.Duration(2*round) * time.Hour)
					if _, err := replicas[i%2].queue.create(t.Context(), slugid.New(), d); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		}
		g, err := replicas[0].queue.group(t.Context(), group)
		if err != nil || g.Expires < definition().Expires.Add(118*time.Hour) {
			t.Errorf("the group is %+v, %v", g, err)
		}
	})
}

// A task that its group refuses has no say in how long others keep the group.
func TestARefusedTaskDoesNotShortenItsGroup(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, url string) {
		q := startReplicas(t, url, 1)[0].queue
		d := definition()
		d.TaskGroupID = slugid.New()
		if _, err := q.create(t.Context(), d.TaskGroupID, d); err != nil {
			t.Fatal(err)
		}
		stranger, longer := definition(), definition()
		stranger.TaskGroupID, stranger.SchedulerID = d.TaskGroupID, "other"
		longer.TaskGroupID, longer.Expires = d.TaskGroupID, d.Expires.Add(100*time.Hour)
		ids := []string{slugid.New(), slugid.New()}
		if err := q.createTogether(t.Context(), ids, stranger, longer); err != nil {
			t.Fatal(err)
		}
		g, err := q.group(t.Context(), d.TaskGroupID)
		if err != nil || g.Expires < longer.Expires {
			t.Errorf("the group expires %v, a task of it %v; %v", g.Expires, longer.Expires, err)
		}
	})
}

// createTogether creates tasks in one transaction and expects the first to be
// refused, the last to be there.
func (q *Queue) createTogether(ctx context.Context, ids []string, list ...*task.Definition) error {
	return q.db.Do(ctx, func(tx *store.Tx) error {
		var items []*store.Item[creation, task.Status]
		for i, d := range list {
			text, err := json.Marshal(d)
			if err != nil {
				return err
			}
			items = append(items, &store.Item[creation, task.Status]{In: creation{taskID: ids[i], Definition: d, text: text, tags: []byte("{}")}})
		}
		if err := q.createAll(tx, items); err != nil {
			return err
		}
		if items[0].Err == nil || items[len(items)-1].Err != nil {
			return fmt.Errorf("the wrong one is refused: %v, %v", items[0].Err, items[len(items)-1].Err)
		}
		return nil
	})
}
