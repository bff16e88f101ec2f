package queue

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A story is what the queue does, as a script: a command a line, after "->"
// what it answers. The commands are those of stage.do. Stories play through the
// real HTTP methods, with the loops running, in virtual time.
func TestStories(t *testing.T) {
	t.Parallel() // they wait for the database most of the time
	files, err := filepath.Glob("testdata/stories/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			t.Parallel()
			storetest.Each(t, func(t *testing.T, db *store.DB) { play(t, newStage(t, db, nil), f) })
		})
	}
}

func play(t *testing.T, s *stage, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		command, want, checked := strings.Cut(line, " -> ")
		got := s.do(strings.Fields(command))
		synctest.Wait() // what the command woke has been done
		if checked && got != want {
			t.Fatalf("%s:%d: %s\n got %s", filepath.Base(file), n, line, got)
		}
		if !checked && strings.HasPrefix(got, "4") {
			t.Fatalf("%s:%d: %s: %s", filepath.Base(file), n, line, got)
		}
	}
}

// id is the slug of a name in the story.
func (s *stage) id(name string) string {
	if s.ids[name] == "" {
		s.ids[name] = slugid.New()
		s.names[s.ids[name]] = name
	}
	return s.ids[name]
}

func (s *stage) run(name string) string { // "A/0"
	task, run, _ := strings.Cut(name, "/")
	return "/task/" + s.id(task) + "/runs/" + run
}

// do plays one command.
func (s *stage) do(f []string) string {
	switch f[0] {
	case "create", "again": // create NAME [deps=A,B] [queue=p/w] [priority=high] …
		return s.create(f[0] == "again", f[1], f[2:])
	case "claim": // claim WORKER [N] [queue=p/w] [holding=A/0,B/0|nothing] -> A/0
		n, queue := 1, "prov/wt"
		body := map[string]any{"workerGroup": "grp", "workerId": f[1]}
		for _, x := range f[2:] {
			if q, ok := strings.CutPrefix(x, "queue="); ok {
				queue = q
			} else if h, ok := strings.CutPrefix(x, "holding="); ok {
				list := []string{}
				for run := range strings.SplitSeq(strings.TrimPrefix(h, "nothing"), ",") {
					if task, run, ok := strings.Cut(run, "/"); ok {
						list = append(list, s.id(task)+"/"+run)
					}
				}
				body["holding"] = list
			} else {
				n, _ = strconv.Atoi(x)
			}
		}
		body["tasks"] = n
		code, out := s.call("POST", "/claim-work/"+queue, body)
		if code != 200 {
			return refusal(code, out)
		}
		var got []string
		for _, c := range out["tasks"].([]any) {
			c := c.(map[string]any)
			got = append(got, fmt.Sprintf("%s/%v", s.names[c["status"].(map[string]any)["taskId"].(string)], c["runId"]))
		}
		if len(got) == 0 {
			return "none"
		}
		if body["holding"] != nil {
			slices.Sort(got) // what is handed out again has no order
		}
		return strings.Join(got, " ")
	case "reclaim", "completed", "failed": // completed A/0
		return s.status(s.call("POST", s.run(f[1])+"/"+f[0], nil))
	case "exception": // exception A/0 REASON
		return s.status(s.call("POST", s.run(f[1])+"/exception", map[string]any{"reason": f[2]}))
	case "cancel", "rerun", "schedule":
		return s.status(s.call("POST", "/task/"+s.id(f[1])+"/"+f[0], nil))
	case "status":
		return s.status(s.call("GET", "/task/"+s.id(f[1])+"/status", nil))
	case "gone": // gone WORKER: the provisioner saw it die
		if err := s.queue.WorkerGone(s.t.Context(), "prov/wt", "grp", f[1]); err != nil {
			return err.Error()
		}
		return "ok"
	case "poll": // poll WORKER: claim, without waiting for the answer; answered WORKER -> A/0
		answer := make(chan string, 1)
		s.polls[f[1]] = answer
		go func() { answer <- s.do(append([]string{"claim"}, f[1:]...)) }()
		return "ok"
	case "answered":
		select {
		case a := <-s.polls[f[1]]:
			return a
		default:
			return "not yet"
		}
	case "claim-run": // claim-run A/0 WORKER: by the method claimTask
		return s.status(s.call("POST", s.run(f[1])+"/claim", map[string]any{"workerGroup": "grp", "workerId": f[2]}))
	case "drain", "retire": // drain WORKER…: those that it drained; retire WORKER…: those that have nothing
		var drained []Worker
		if err := s.db.Do(s.t.Context(), func(tx *store.Tx) (err error) {
			var list []Worker
			for _, id := range f[1:] {
				list = append(list, Worker{"grp", id})
			}
			drain := s.queue.DrainAny
			if f[0] == "retire" {
				drain = s.queue.Retire
			}
			drained, err = drain(tx, "prov/wt", list)
			return err
		}); err != nil {
			return err.Error()
		}
		return workerList(drained)
	case "admit": // admit WORKER: there is another one of this name
		if err := s.db.Do(s.t.Context(), func(tx *store.Tx) error { return s.queue.Admit(tx, "prov/wt", Worker{"grp", f[1]}) }); err != nil {
			return err.Error()
		}
		return "ok"
	case "quarantine": // quarantine WORKER FOR-HOW-LONG [REASON]
		d, err := time.ParseDuration(f[2])
		if err != nil {
			s.t.Fatal(err)
		}
		code, out := s.call("PUT", "/provisioners/prov/worker-types/wt/workers/grp/"+f[1], map[string]any{
			"quarantineUntil": timestamp.Now().Add(d), "quarantineInfo": strings.Join(f[3:], " "),
		})
		if code != 200 {
			return refusal(code, out)
		}
		return "ok"
	case "worker": // what is remembered of it
		code, out := s.call("GET", "/provisioners/prov/worker-types/wt/workers/grp/"+f[1], nil)
		if code != 200 {
			return refusal(code, out)
		}
		text := "active " + s.ago(out["lastDateActive"])
		for _, x := range out["quarantineDetails"].([]any) {
			x := x.(map[string]any)
			text += fmt.Sprintf("; %s: %s", x["clientId"], x["quarantineInfo"])
		}
		for i, x := range out["recentTasks"].([]any) {
			if i == 0 {
				text += ";"
			}
			x := x.(map[string]any)
			text += fmt.Sprintf(" %s/%v", s.names[x["taskId"].(string)], x["runId"])
		}
		return text
	case "workers": // workers [quarantined=true]
		query := ""
		if len(f) > 1 {
			query = "?" + f[1]
		}
		code, out := s.call("GET", "/provisioners/prov/worker-types/wt/workers"+query, nil)
		if code != 200 {
			return refusal(code, out)
		}
		var got []Worker
		for _, x := range out["workers"].([]any) {
			got = append(got, Worker{"grp", x.(map[string]any)["workerId"].(string)})
		}
		return workerList(got)
	case "demand": // how much waits, and what each worker does
		return s.demand()
	case "upcoming": // tasks of prov/wt and prov/other that wait for running ones alone
		return s.upcoming()
	case "seal":
		code, out := s.call("POST", "/task-group/"+s.id(f[1])+"/seal", nil)
		if code != 200 {
			return refusal(code, out)
		}
		return "sealed"
	case "priority": // priority NAME P: what its status says then
		code, out := s.call("POST", "/task/"+s.id(f[1])+"/priority", map[string]any{"newPriority": f[2]})
		if code != 200 {
			return refusal(code, out)
		}
		return out["status"].(map[string]any)["priority"].(string)
	case "group-priority": // group-priority GROUP P: the tasks that got it
		code, out := s.call("POST", "/task-group/"+s.id(f[1])+"/priority", map[string]any{"newPriority": f[2]})
		if code != 200 {
			return refusal(code, out)
		}
		var got []string
		for _, id := range out["taskIds"].([]any) {
			got = append(got, s.names[id.(string)])
		}
		slices.Sort(got)
		return fmt.Sprintf("%v %v: %s", out["tasksAffected"], out["newPriority"], cmp.Or(strings.Join(got, " "), "none"))
	case "pending", "claimed": // pending [limit]: the names on all pages
		got := s.pages("/task-queues/prov/wt/"+f[0], "tasks", f[1:], func(x map[string]any) string {
			text := s.names[x["taskId"].(string)]
			if x["task"].(map[string]any)["metadata"].(map[string]any)["name"] != text {
				text += " with the definition of another"
			}
			if w, ok := x["workerId"]; ok {
				text += fmt.Sprintf("@%v", w)
			}
			return text
		})
		return got
	case "task-queues", "provisioners", "worker-types": // [limit]
		path, list, key := "/task-queues", "taskQueues", "taskQueueId"
		switch f[0] {
		case "provisioners":
			path, list, key = "/provisioners", "provisioners", "provisionerId"
		case "worker-types":
			path, list, key = "/provisioners/prov/worker-types", "workerTypes", "workerType"
		}
		return s.pages(path, list, f[1:], func(x map[string]any) string {
			name := x[key].(string)
			if strings.HasPrefix(name, "built-in") { // whose workers are always there
				return ""
			}
			return name + " " + s.ago(x["lastDateActive"])
		})
	case "task-queue": // task-queue PROV/TYPE
		code, out := s.call("GET", "/task-queues/"+f[1], nil)
		if code != 200 {
			return refusal(code, out)
		}
		return "active " + s.ago(out["lastDateActive"])
	case "declare": // declare WORKER FOR-HOW-LONG
		d, err := time.ParseDuration(f[2])
		if err != nil {
			s.t.Fatal(err)
		}
		code, out := s.call("PUT", "/provisioners/prov/worker-types/wt/grp/"+f[1], map[string]any{"expires": timestamp.Now().Add(d)})
		if code != 200 {
			return refusal(code, out)
		}
		return "known for " + strings.TrimPrefix(strings.TrimSuffix(s.ago(out["expires"]), " ago"), "-")
	case "cancel-group":
		code, out := s.call("POST", "/task-group/"+s.id(f[1])+"/cancel", nil)
		if code != 200 {
			return refusal(code, out)
		}
		return fmt.Sprintf("%v of %v", out["cancelledCount"], out["taskGroupSize"])
	case "group": // the members' states
		code, out := s.call("GET", "/task-group/"+s.id(f[1])+"/list", nil)
		if code != 200 {
			return refusal(code, out)
		}
		var got []string
		for _, x := range out["tasks"].([]any) {
			st := x.(map[string]any)["status"].(map[string]any)
			got = append(got, fmt.Sprintf("%s=%s", s.names[st["taskId"].(string)], st["state"]))
		}
		slices.Sort(got)
		return strings.Join(got, " ")
	case "counts":
		_, out := s.call("GET", "/task-queues/prov%2Fwt/counts", nil)
		return fmt.Sprintf("pending %v claimed %v", out["pendingTasks"], out["claimedTasks"])
	case "events": // what was published since the last time
		return s.events()
	case "wait":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			s.t.Fatal(err)
		}
		s.waits.Store(time.Now().Add(d).UnixMilli())
		time.Sleep(d)
		return "ok"
	case "as": // as SCOPE…: who calls from now on; "as everybody" is all scopes
		if s.as = strings.Join(f[1:], " "); s.as == "everybody" {
			s.as = ""
		}
		return "ok"
	}
	s.t.Fatalf("unknown command %q", f[0])
	return ""
}

// pages reads a listing page by page and tells its entries, but for those that
// are told as "".
func (s *stage) pages(path, list string, limit []string, tell func(map[string]any) string) string {
	query := "?limit=1000"
	if len(limit) > 0 {
		query = "?limit=" + limit[0]
	}
	var told []string
	for token := ""; ; {
		code, out := s.call("GET", path+query+token, nil)
		if code != 200 {
			return refusal(code, out)
		}
		for _, x := range out[list].([]any) {
			if text := tell(x.(map[string]any)); text != "" {
				told = append(told, text)
			}
		}
		next, more := out["continuationToken"].(string)
		if !more {
			break
		}
		token = "&continuationToken=" + next
	}
	if told == nil {
		return "none"
	}
	return strings.Join(told, ", ")
}

func workerList(list []Worker) string {
	var ids []string
	for _, w := range list {
		ids = append(ids, w.ID)
	}
	if ids == nil {
		return "none"
	}
	return strings.Join(ids, " ")
}

func (s *stage) ago(time any) string {
	var t timestamp.Time
	if err := t.UnmarshalText([]byte(time.(string))); err != nil {
		s.t.Fatal(err)
	}
	return timestamp.Now().Sub(t).String() + " ago"
}

// demand tells Demand of prov/wt: "pending 2 for 5s; w1 runs A for 3s, w2 idle for 1m".
func (s *stage) demand() string {
	all, err := s.queue.Demand(s.t.Context(), []string{"prov/wt", "prov/none"})
	if err != nil {
		s.t.Fatal(err)
	}
	d := all["prov/wt"]
	text := "pending " + strconv.FormatInt(d.Pending, 10)
	if d.Pending > 0 {
		text += " for " + timestamp.Now().Sub(d.Oldest).String()
	}
	slices.SortFunc(d.Workers, func(a, b WorkerState) int { return strings.Compare(a.Worker.ID, b.Worker.ID) })
	for _, w := range d.Workers {
		text += "; " + w.Worker.ID
		busy := false
		for _, r := range d.Running {
			if r.Worker == w.Worker {
				busy = true
				text += fmt.Sprintf(" runs %s for %v", cmp.Or(r.Kind, "something"), timestamp.Now().Sub(r.Started))
			}
		}
		if !busy && w.Released > 0 {
			text += fmt.Sprintf(" idle for %v", timestamp.Now().Sub(w.Released))
		} else if !busy {
			text += " never ran"
		}
		if w.Draining {
			text += " draining"
		}
		if w.Quarantined {
			text += " quarantined"
		}
	}
	return text
}

// upcoming tells Upcoming: "3 in wt after A, 1 in other after A+B", by kinds.
func (s *stage) upcoming() string {
	list, err := s.queue.Upcoming(s.t.Context(), []string{"prov/wt", "prov/other"})
	if err != nil {
		s.t.Fatal(err)
	}
	var told []string
	for _, u := range list {
		var after []string
		for _, d := range u.Dependencies {
			if d.Started.IsZero() || d.TaskQueueID != "prov/wt" {
				s.t.Errorf("waits for %+v", d)
			}
			after = append(after, cmp.Or(d.Kind, "something"))
		}
		slices.Sort(after)
		told = append(told, fmt.Sprintf("%d in %s after %s", u.Count, filepath.Base(u.TaskQueueID), strings.Join(after, "+")))
	}
	slices.Sort(told)
	if told == nil {
		return "none"
	}
	return strings.Join(told, ", ")
}

func (s *stage) create(again bool, name string, options []string) string {
	body := s.tasks[name]
	if !again {
		body = map[string]any{
			"taskQueueId": "prov/wt", "created": timestamp.Now(), "deadline": timestamp.Now().Add(24 * time.Hour),
			"payload": map[string]any{"x": 1}, "metadata": map[string]string{"name": name, "description": "d", "owner": "o@example.com", "source": "https://example.com/"},
		}
		s.tasks[name] = body
	}
	for _, o := range options {
		k, v, _ := strings.Cut(o, "=")
		switch k {
		case "deps":
			var list []string
			for d := range strings.SplitSeq(v, ",") {
				list = append(list, s.id(d))
			}
			body["dependencies"] = list
		case "queue":
			body["taskQueueId"] = v
		case "label":
			body["tags"] = map[string]string{"label": v}
		case "group":
			body["taskGroupId"] = s.id(v)
		case "deadline", "expires":
			d, err := time.ParseDuration(v)
			if err != nil {
				s.t.Fatal(err)
			}
			body[k] = timestamp.Now().Add(d)
		case "payload":
			body[k] = json.RawMessage(v)
		case "retries":
			n, _ := strconv.Atoi(v)
			body["retries"] = n
		case "scopes", "routes":
			body[k] = strings.Split(v, ",")
		default:
			body[k] = v
		}
	}
	return s.status(s.call("PUT", "/task/"+s.id(name), body))
}

// status tells a status reply: state, then each run that is not the only one.
func (s *stage) status(code int, out map[string]any) string {
	if code != 200 {
		return refusal(code, out)
	}
	st := out["status"].(map[string]any)
	text := st["state"].(string)
	for _, r := range st["runs"].([]any) {
		r := r.(map[string]any)
		text += fmt.Sprintf("; %v %v %v", r["runId"], r["reasonCreated"], r["state"])
		if why, ok := r["reasonResolved"]; ok && why != r["state"] {
			text += fmt.Sprintf(" %v", why)
		}
	}
	return text
}

func refusal(code int, out map[string]any) string { return fmt.Sprintf("%d %v", code, out["code"]) }

func (s *stage) events() string {
	list, err := s.bus.Read(s.t.Context(), s.seen, 1000)
	if err != nil {
		s.t.Fatal(err)
	}
	var told []string
	for _, m := range list {
		s.seen = m.Position
		key := strings.Split(m.RoutingKey, ".")
		what := s.names[key[1]]
		if len(key) > 5 && key[2] != "_" {
			what += "/" + key[2]
		}
		told = append(told, filepath.Base(m.Exchange)+" "+what)
	}
	if told == nil {
		return "none"
	}
	return strings.Join(told, ", ")
}
