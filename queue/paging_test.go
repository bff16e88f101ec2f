package queue

import (
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// Whoever reads a listing page by page while somebody adds to it sees all that
// was there before, nothing twice, and no page that is too long.
func TestListingsArePagedWhileTheyGrow(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		s.do(strings.Fields("create root group=G queue=prov/root"))
		s.do(strings.Fields("create run"))
		s.do(strings.Fields("claim w"))
		expires := s.tasks["root"]["deadline"]
		add := func(i int) (id string) {
			id = slugid.New()
			body := s.body()
			body["taskGroupId"], body["dependencies"], body["taskQueueId"] = s.id("G"), []string{s.id("root")}, "prov/list"
			s.must("PUT", "/task/"+id, body)
			s.must("POST", "/task/"+id+"/schedule", nil)
			name := fmt.Sprintf("public/%s", id)
			s.must("POST", s.run("run/0")+"/artifacts/"+url.PathEscape(name), map[string]any{"storageType": "error", "reason": "file-missing-on-worker", "message": "x", "expires": expires})
			if i%5 == 0 {
				s.must("POST", "/task/"+id+"/priority", map[string]any{"newPriority": "high"})
			}
			return id
		}
		const before = 30
		base := []string{}
		for i := range before {
			base = append(base, add(i))
		}
		status := func(x map[string]any) string { return x["status"].(map[string]any)["taskId"].(string) }
		for path, read := range map[string]struct {
			list string
			id   func(map[string]any) string
		}{
			"/task-group/" + s.id("G") + "/list":    {"tasks", status},
			"/task/" + s.id("root") + "/dependents": {"tasks", status},
			s.run("run/0") + "/artifacts":           {"artifacts", func(x map[string]any) string { return strings.TrimPrefix(x["name"].(string), "public/") }},
			"/task/" + s.id("run") + "/artifacts":   {"artifacts", func(x map[string]any) string { return strings.TrimPrefix(x["name"].(string), "public/") }},
			"/task-queues/prov/list/pending":        {"tasks", func(x map[string]any) string { return x["taskId"].(string) }},
		} {
			done := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-done:
						return
					default:
						add(i)
					}
				}
			})
			seen := map[string]int{}
			for token := ""; ; {
				out := s.must("GET", path+"?limit=4"+token, nil)
				page := out[read.list].([]any)
				if len(page) > 4 {
					t.Errorf("%s: a page of %d", path, len(page))
				}
				for _, x := range page {
					seen[read.id(x.(map[string]any))]++
				}
				next, more := out["continuationToken"].(string)
				if !more || len(seen) > 40*before { // those that are added come last: it need not end
					break
				}
				token = "&continuationToken=" + next
			}
			close(done)
			wg.Wait()
			for _, id := range base {
				if seen[id] != 1 {
					t.Errorf("%s: %s was listed %d times", path, id, seen[id])
				}
			}
			for id, n := range seen {
				if n > 1 {
					t.Errorf("%s: %s was listed %d times", path, id, n)
				}
			}
		}
	})
}
