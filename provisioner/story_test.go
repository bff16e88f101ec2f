package provisioner

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// A story is what the provisioner does, as a script: a command a line, after
// "->" what it answers. The commands are those of stage.do. Stories play
// through the real HTTP methods, with the loops running, in virtual time.
func TestStories(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/stories/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			t.Parallel()
			storetest.Each(t, func(t *testing.T, db *store.DB) { play(t, newStage(t, db), f) })
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
		if checked && got != want {
			t.Fatalf("%s:%d: %s\n got %s", filepath.Base(file), n, line, got)
		}
		if !checked && strings.HasPrefix(got, "4") {
			t.Fatalf("%s:%d: %s: %s", filepath.Base(file), n, line, got)
		}
	}
}

// do plays one command.
func (s *stage) do(f []string) string {
	switch f[0] {
	case "pool", "update": // pool NAME [min=1] [max=5] [ratio=.5] [provider=other] [owner=…] [FIELD=JSON of config, with + for spaces]
		verb := map[string]string{"pool": "PUT", "update": "POST"}[f[0]]
		return s.pool(s.call("", verb, "/worker-pool/"+f[1], definition(f[2:])))
	case "delete":
		return s.pool(s.call("", "DELETE", "/worker-pool/"+f[1], nil))
	case "show":
		return s.pool(s.call("", "GET", "/worker-pool/"+f[1], nil))
	case "tasks": // tasks POOL N: so many tasks become pending
		n, err := strconv.Atoi(f[2])
		if err != nil {
			s.t.Fatal(err)
		}
		s.add(f[1], int64(n))
		return s.soon()
	case "queue": // what the queue has
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		var pending, claimed int64
		for _, n := range s.pending {
			pending += n
		}
		for _, n := range s.claimed {
			claimed += n
		}
		return fmt.Sprintf("%d pending, %d claimed, %d finished, %d handed back", pending, claimed, s.finished, s.returned)
	case "workers": // workers POOL: how many in which state
		synctest.Wait()
		return s.workers(f[1])
	case "intents": // intents POOL: the open ones, and for how many workers
		synctest.Wait()
		return s.intents(f[1])
	case "images": // how many machines run by what they were made from
		synctest.Wait()
		return s.cloud.Images()
	case "most": // machines that there were at the same time
		synctest.Wait()
		s.cloud.mu.Lock()
		defer s.cloud.mu.Unlock()
		return strconv.Itoa(s.cloud.most)
	case "machines": // those that run, and those that were ever started
		synctest.Wait()
		return fmt.Sprintf("%d of %d", s.cloud.Alive(), s.cloud.Launches())
	case "workers-are": // workers-are broken: of those that start from now on
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.mood = f[1]; s.mood == "well" {
			s.mood = ""
		}
		return "ok"
	case "boot", "idle", "length":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			s.t.Fatal(err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.cloud.mu.Lock()
		defer s.cloud.mu.Unlock()
		*map[string]*time.Duration{"boot": &s.cloud.Boot, "idle": &s.idle, "length": &s.length}[f[0]] = d
		return "ok"
	case "kill": // kill POOL: the oldest running worker dies
		s.cloud.Kill(s.rows(f[1], fleet.Running)[0].Ref)
		return s.soon()
	case "interrupt": // interrupt POOL DURATION: the provider will take the oldest running worker away
		d, err := time.ParseDuration(f[2])
		if err != nil {
			s.t.Fatal(err)
		}
		s.cloud.Interrupt(s.rows(f[1], fleet.Running)[0].Ref, d)
		return s.soon()
	case "stray": // stray POOL: a machine that no books know
		s.cloud.Stray(f[1])
		return "ok"
	case "quarantine": // quarantine POOL: the oldest running worker gets nothing more
		s.mu.Lock()
		defer s.mu.Unlock()
		s.quarantined[s.rows(f[1], fleet.Running)[0].Ref] = true
		return "ok"
	case "spoilt-image": // workers made from it break
		s.mu.Lock()
		defer s.mu.Unlock()
		s.spoilt = f[1]
		return "ok"
	case "at": // at TIME: wait until then, virtual time begins at midnight of 1 January 2000, UTC
		at, err := time.Parse("2006-01-02T15:04", f[1])
		if err != nil {
			s.t.Fatal(err)
		}
		time.Sleep(time.Until(at))
		return s.soon()
	case "linger": // how long machines take to end
		d, err := time.ParseDuration(f[1])
		if err != nil {
			s.t.Fatal(err)
		}
		s.cloud.mu.Lock()
		defer s.cloud.mu.Unlock()
		s.cloud.Linger = d
		return "ok"
	case "remove": // remove POOL: somebody removes the oldest running worker
		r := s.rows(f[1], fleet.Running)[0].Ref
		code, out := s.call("", "DELETE", "/workers/"+r.String(), nil)
		s.soon()
		return reply(code, out, "ok")
	case "should-go": // should-go POOL: which of the running ones, by age
		return s.shouldGo(f[1])
	case "provider": // provider hangs | refuses [CLASS] | is-unclear | is-closing | bursts | is-blind | has-room N | is-well
		return s.provider(f[1:])
	case "the-queue": // the-queue is-down | is-up
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.deaf = nil; f[1] == "is-down" {
			s.deaf = errors.New("the queue is down")
		}
		return "ok"
	case "errors": // errors POOL: kinds and how often
		return s.errors(f[1])
	case "events": // what was published since the last time
		return s.events()
	case "crash": // the server ends; another one starts
		s.restart()
		return s.soon()
	case "without-cloud": // another server starts, which knows only the other provider
		s.lost = true
		s.restart()
		return s.soon()
	case "stop": // the server ends
		s.stop()
		return "ok"
	case "wait":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			s.t.Fatal(err)
		}
		time.Sleep(d)
		synctest.Wait()
		return "ok"
	case "as": // as SCOPE…: who calls from now on; "as everybody" is all scopes
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.as = strings.Join(f[1:], " "); s.as == "everybody" {
			s.as = ""
		}
		return "ok"
	case "get": // get PATH: the status of a call
		code, out := s.call("", "GET", f[1], nil)
		return reply(code, out, "200")
	}
	s.t.Fatalf("unknown command %q", f[0])
	return ""
}

// provider gives the cloud a mood.
func (s *stage) provider(f []string) string {
	c := s.cloud
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hangs, c.unclear, c.breaks, c.refuse, c.blind, c.room = false, false, false, nil, nil, 0
	switch f[0] {
	case "hangs":
		c.hangs = true
	case "is-unclear":
		c.unclear = true
	case "bursts":
		c.breaks = true
	case "is-closing":
		c.refuse = &fleet.Fault{Class: fleet.Closing, Description: "the cloud rains off"}
	case "refuses":
		c.refuse = &fleet.Fault{Description: "the cloud is out of rain"}
		if len(f) > 1 {
			c.refuse.Class = map[string]fleet.Class{
				"configuration": fleet.Wrong, "account": fleet.Denied, "capacity": fleet.SoldOut, "quota": fleet.Quota, "throttle": fleet.Throttled,
			}[f[1]]
		}
	case "has-room":
		n, err := strconv.Atoi(f[1])
		if err != nil {
			s.t.Fatal(err)
		}
		c.room = n
	case "is-blind":
		c.blind = errors.New("the cloud is foggy")
	}
	return "ok"
}

// soon lets what was woken happen. Passes that are woken come a moment after
// one another, and decide no more than once a second.
func (s *stage) soon() string {
	time.Sleep(time.Second + 2*pause)
	synctest.Wait()
	return "ok"
}

func definition(options []string) map[string]any {
	config := map[string]any{"maxCapacity": 10, "image": "a", "workerConfig": map[string]any{"idleTimeoutSecs": 30}}
	body := map[string]any{"providerId": "cloud", "description": "d", "owner": "o@example.com", "emailOnError": false, "config": config}
	for _, o := range options {
		k, v, _ := strings.Cut(o, "=")
		var value any = v
		if n, err := strconv.ParseFloat(v, 64); err == nil {
			value = n
		}
		switch k {
		case "min":
			config["minCapacity"] = value
		case "max":
			config["maxCapacity"] = value
		case "ratio":
			config["scalingRatio"] = value
		case "capacity":
			config["capacityPerInstance"] = value
		case "worker-capacity":
			config["workerConfig"].(map[string]any)["capacity"] = value
		case "register-within":
			config["lifecycle"] = map[string]any{"registrationTimeout": value}
		case "renew-within":
			config["lifecycle"] = map[string]any{"reregistrationTimeout": value}
		case "age":
			config["lifecycle"] = map[string]any{"maxAge": value}
		case "quiet":
			config["lifecycle"] = map[string]any{"queueInactivityTimeout": value}
		case "idle":
			config["sizing"] = map[string]any{"idleTimeout": value}
		case "policy":
			config["sizing"] = map[string]any{"policy": value}
		case "provider":
			body["providerId"] = v
		case "owner", "description", "workerPoolId":
			body[k] = v
		default:
			if text := strings.ReplaceAll(v, "+", " "); json.Valid([]byte(text)) {
				value = json.RawMessage(text)
			}
			config[k] = value
		}
	}
	return body
}

func reply(code int, out map[string]any, well string) string {
	if code != 200 {
		return fmt.Sprintf("%d %v", code, out["code"])
	}
	return well
}

// pool tells a pool: provider and workers.
func (s *stage) pool(code int, out map[string]any) string {
	s.soon()
	return reply(code, out, fmt.Sprintf("%v, capacity %v", out["providerId"], out["currentCapacity"]))
}

func (s *stage) workers(pool string) string {
	_, out := s.call("", "GET", "/workers/"+pool, nil)
	count := map[string]int{}
	for _, x := range out["workers"].([]any) {
		count[x.(map[string]any)["state"].(string)]++
	}
	var told []string
	for _, state := range []string{fleet.Requested, fleet.Running, fleet.Stopping, fleet.Stopped} {
		if count[state] > 0 {
			told = append(told, fmt.Sprintf("%d %s", count[state], state))
		}
	}
	return listed(told, ", ")
}

func (s *stage) intents(pool string) string {
	var list []*fleet.Intent
	if err := s.db.View(s.t.Context(), func(tx *store.Tx) (err error) {
		list, err = queryIntents(tx, `WHERE worker_pool_id = $1`, pool)
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	if len(list) == 0 {
		return "none"
	}
	var workers int64
	for _, i := range list {
		workers += i.Workers
	}
	return fmt.Sprintf("%d for %d", len(list), workers)
}

func listed(list []string, separator string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, separator)
}

func (s *stage) shouldGo(pool string) string {
	var told []string
	for i, w := range s.rows(pool, fleet.Running) {
		_, out := s.call("", "GET", "/workers/"+w.Ref.String()+"/should-terminate", nil)
		if out["terminate"] == true {
			told = append(told, fmt.Sprintf("%d (%v)", i+1, out["reason"]))
		}
	}
	return listed(told, ", ")
}

func (s *stage) errors(pool string) string {
	_, out := s.call("", "GET", "/worker-pool-errors/"+pool, nil)
	count := map[string]int{}
	for _, x := range out["workerPoolErrors"].([]any) {
		count[x.(map[string]any)["kind"].(string)]++
	}
	var told []string
	for _, kind := range slices.Sorted(maps.Keys(count)) {
		told = append(told, fmt.Sprintf("%d %s", count[kind], kind))
	}
	return listed(told, ", ")
}

func (s *stage) events() string {
	time.Sleep(6 * time.Second) // the log is placed
	synctest.Wait()
	list, err := s.bus.Read(s.t.Context(), s.seen, 1000)
	if err != nil {
		s.t.Fatal(err)
	}
	var told []string
	for _, m := range list {
		s.seen = m.Position
		key := strings.Split(m.RoutingKey, ".")
		told = append(told, fmt.Sprintf("%s:%s", m.Exchange[strings.LastIndex(m.Exchange, "/")+1:], key[1]))
	}
	return listed(told, " ")
}
