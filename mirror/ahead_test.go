package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

func taskMessage(topic, taskID, taskQueueID string) event.Message {
	payload, err := json.Marshal(map[string]any{"status": map[string]any{"taskId": taskID, "taskQueueId": taskQueueID}})
	if err != nil {
		panic(err)
	}
	return event.Message{Exchange: topic, Payload: payload}
}

// made is an artifact of a task.
func made(taskID, name string) Artifact {
	return Artifact{
		TaskID: taskID, Name: name, TaskQueueID: "proj/build", Size: 100, Expires: timestamp.Now().Add(24 * time.Hour), Key: taskID + "/0/" + name,
	}
}

// waiting is what is wanted, as "region task/0/name".
func (m *Mirror) waiting(t *testing.T) (list []string) {
	t.Helper()
	if err := m.db.View(t.Context(), func(tx *store.Tx) error {
		list = nil
		rows, err := tx.Query(`SELECT region, origin, priority FROM mirror_copy`)
		if err != nil {
			return err
		}
		for rows.Next() {
			var region, text string
			var p Priority
			if err := rows.Scan(&region, &text, &p); err != nil {
				return err
			}
			o, err := ParseOrigin(text)
			if err != nil {
				return err
			}
			if p != Ahead {
				t.Errorf("%s has the priority %d", text, p)
			}
			list = append(list, region+" "+o.Key)
		}
		return rows.Err()
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

func TestArtifactsAreCopiedAheadByRoutes(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		open, expired := made("A", "public/open"), made("A", "public/expired")
		open.Open, expired.Expires = true, timestamp.Now()
		large, other := made("A", "public/large"), made("B", "public/x")
		large.Size, other.TaskQueueID = 1<<40, "proj/test"
		l := &library{artifacts: map[string][]Artifact{
			"A": {made("A", "public/x"), made("A", "private/x"), open, expired, large}, "B": {other}, "C": nil,
		}}
		m, _ := deskMirror(t, db, l, Route{Name: "small", TaskQueue: "proj/build", Artifact: "public/*", MaxSize: 1000, Ahead: true},
			Route{Name: "large", Artifact: "public/large", Regions: []string{"ap"}, Ahead: true})
		a := &ahead{mirror: m, regions: map[string]located{}}
		messages := []event.Message{
			taskMessage(topicCompleted, "A", "proj/build"), taskMessage(topicFailed, "B", "proj/test"), taskMessage(topicCompleted, "C", "x/y"),
			taskMessage(topicCompleted, "gone", "x/y"), {Exchange: topicCompleted, Payload: json.RawMessage(`[]`)}, taskMessage(topicCompleted, "A", "proj/build"),
		}
		for range 2 { // what comes again changes nothing
			if acted, err := a.follow(t.Context(), messages); acted || err != nil {
				t.Fatal(acted, err)
			}
			if got := m.waiting(t); !slices.Equal(got, []string{"ap A/0/public/large", "ap A/0/public/x", "eu A/0/public/x"}) {
				t.Errorf("wanted: %q", got)
			}
		}
		if n := l.asked["artifacts"]; n != 8 {
			t.Errorf("the catalog was asked %d times", n)
		}
		l.err = errors.New("the queue is down")
		if _, err := a.follow(t.Context(), messages); !errors.Is(err, l.err) {
			t.Errorf("what could not be looked up is not tried again: %v", err)
		}
	})
}

func TestWhatTasksDependOnIsFetchedBeforeTheyRun(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		l := &library{
			artifacts: map[string][]Artifact{"A": {made("A", "public/x"), made("A", "logs/x")}, "B": {made("B", "public/y")}},
			required:  map[string][]string{"T": {"A", "B", "gone"}, "U": {"A"}, "home": {"A"}},
			regions:   map[string][]string{"proj/eu": {"eu-1a", "eu", "shelf"}, "proj/both": {"eu", "ap", "us"}, "proj/home": {"us"}},
		}
		m, _ := deskMirror(t, db, l, Route{Name: "prefetched", Artifact: "public/*", Prefetch: true})
		a := &ahead{mirror: m, regions: map[string]located{}}
		pending := func(list ...event.Message) []string {
			t.Helper()
			if _, err := a.follow(t.Context(), list); err != nil {
				t.Fatal(err)
			}
			return m.waiting(t)
		}
		if got := pending(taskMessage(topicPending, "home", "proj/home"), taskMessage(topicPending, "home", "proj/unknown")); got != nil || l.asked["dependencies"] != 0 {
			t.Errorf("for workers at home: %q, %v", got, l.asked)
		}
		if got := pending(taskMessage(topicPending, "T", "proj/eu")); !slices.Equal(got, []string{"eu A/0/public/x", "eu B/0/public/y"}) {
			t.Errorf("for workers in eu: %q", got)
		}
		if got := pending(taskMessage(topicPending, "U", "proj/both")); !slices.Equal(got, []string{"ap A/0/public/x", "eu A/0/public/x", "eu B/0/public/y"}) {
			t.Errorf("for workers in both: %q", got)
		}

		// A thousand tasks that need the same are a few questions.
		l.asked = nil
		var many []event.Message
		for i := range 1000 {
			id := fmt.Sprint("many-", i)
			l.required[id] = []string{"A"}
			many = append(many, taskMessage(topicPending, id, "proj/eu"))
		}
		pending(many...)
		if l.asked["artifacts"] != 1 || l.asked["regions"] != 0 {
			t.Errorf("for a thousand tasks: %v", l.asked)
		}
		time.Sleep(poolMemory) // workers move
		l.regions["proj/eu"] = []string{"ap"}
		if got := pending(taskMessage(topicPending, "T", "proj/eu")); !slices.Contains(got, "ap B/0/public/y") {
			t.Errorf("after the workers have moved: %q", got)
		}
	})
}

func TestWhatIsCopiedAheadForATaskIsBounded(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		l := &library{artifacts: map[string][]Artifact{}, required: map[string][]string{}, regions: map[string][]string{"proj/eu": {"eu"}}}
		for i := range maxAheadArtifacts + 10 {
			l.artifacts["A"] = append(l.artifacts["A"], made("A", fmt.Sprint("x/", i)))
		}
		for i := range maxAheadDependencies + 10 {
			id := fmt.Sprint("D", i)
			l.artifacts[id] = []Artifact{made(id, "y")}
			l.required["T"] = append(l.required["T"], id)
		}
		m, _ := deskMirror(t, db, l, Route{Name: "r", Artifact: "x/*", Regions: []string{"eu"}, Ahead: true, Prefetch: true}, Route{Name: "s", Artifact: "y", Prefetch: true})
		a := &ahead{mirror: m, regions: map[string]located{}}
		if _, err := a.follow(t.Context(), []event.Message{taskMessage(topicCompleted, "A", "")}); err != nil {
			t.Fatal(err)
		}
		if n := len(m.waiting(t)); n != maxAheadArtifacts {
			t.Errorf("%d artifacts", n)
		}
		if _, err := a.follow(t.Context(), []event.Message{taskMessage(topicPending, "T", "proj/eu")}); err != nil {
			t.Fatal(err)
		}
		if n := len(m.waiting(t)); n != maxAheadArtifacts+maxAheadDependencies {
			t.Errorf("%d artifacts with those of dependencies", n)
		}
		l.required["U"] = []string{"A"}
		if _, err := a.follow(t.Context(), []event.Message{taskMessage(topicPending, "U", "proj/eu")}); err != nil {
			t.Fatal(err)
		}
		if n := len(m.waiting(t)); n != maxAheadArtifacts+maxAheadDependencies {
			t.Errorf("%d artifacts with those of one dependency", n)
		}
	})
}

func TestTheQueueIsFollowedOnlyWhereARouteSaysSo(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		for want, r := range map[bool]Route{false: {Name: "r"}, true: {Name: "r", Ahead: true}} {
			_, bus := deskMirror(t, db, &library{}, r)
			got := false
			for _, l := range bus.Loops() {
				got = got || strings.HasSuffix(l.Name, "deliver.mirror")
			}
			if got != want {
				t.Errorf("with %+v: %v", r, got)
			}
		}
	})
}
