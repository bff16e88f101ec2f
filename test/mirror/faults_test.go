package mirror

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client"
	copies "github.com/taskfleet/taskfleet/mirror"
	"github.com/taskfleet/taskfleet/mirror/source/faulty"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// A storm is copies that are made while their origins, the S3 and the processes fail, and readers who compare all that
// they get.
type storm struct {
	*site
	objects []*thing
	kills   int
	db      *store.DB

	mu     sync.Mutex
	met    map[string]int // faults of the origin, by path
	broken map[string]int // faults of the S3, by region and id

	served  atomic.Int64 // downloads of copies that were compared
	scrapes atomic.Int64
}

// A thing is at a URL of the origin.
type thing struct {
	path   string
	origin copies.Origin
	known  bool // its SHA-256 is told
	absent bool // there is nothing
	size   int64
}

const (
	manyCopies = 600
	perMille   = 250 // requests of the origin that go wrong
	oneIn      = 25  // requests of the S3 that go wrong
	readers    = 2   // in each region
)

// howMany is the number of copies. TASKFLEET_TEST_LONG, a number such as 100000, is for more, and takes ten minutes or so.
func howMany(t *testing.T) int {
	text := os.Getenv("TASKFLEET_TEST_LONG")
	if text == "" {
		return manyCopies
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < manyCopies {
		t.Fatalf("TASKFLEET_TEST_LONG=%s: it is a number of copies, %d or more", text, manyCopies)
	}
	return n
}

func TestNothingWrongIsServedWhateverFails(t *testing.T) {
	t.Parallel()
	storetest.EachURL(t, func(t *testing.T, database string) {
		t.Parallel()
		newStorm(t, database, howMany(t)).run()
	})
}

func newStorm(t *testing.T, database string, n int) *storm {
	w := &storm{met: map[string]int{}, broken: map[string]int{}, kills: 3 + n/2500}
	origin := faulty.New(uint64(n))
	origin.Plan = w.plan
	origin.Every = 1 // nanosecond
	c := settings{database: database, origin: origin, quick: true, mirror: `  routes: [{name: streamed, url: "*/a+b", policy: stream}, {name: rest, policy: redirect}]`}
	if strings.HasPrefix(database, "postgres:") {
		c.replicas = 2
	}
	w.site = newSite(t, c)
	for i := range n / len(away) {
		x := &thing{path: fmt.Sprintf("/pub/%d/%s", i, []string{"file", "naïve file", "a+b"}[i%3]), known: i%2 == 0, absent: i%50 == 1, size: rand.Int64N(20_000)}
		if i%(n/8) == 3 {
			x.size = 9 << 20 // in parts
		}
		w.objects = append(w.objects, x)
		if !x.absent {
			origin.Put(x.path, faulty.Object{Size: x.size})
		}
		x.origin = copies.Origin{URL: w.web.URL + (&url.URL{Path: x.path}).EscapedPath()}
	}
	for _, region := range away {
		w.doors[region].silent = true
		w.doors[region].keep(w.rule(region))
	}
	w.db = storetest.Open(t, w.database)
	return w
}

// plan has requests of the origin fail, and counts them. Where the SHA-256 is not known nobody could tell that there are
// other bytes, or fewer of them and a length that says so. Three in a row are enough: the longer it goes on, the longer
// is waited.
func (w *storm) plan(path string, request int) faulty.Fault {
	faults := []faulty.Fault{faulty.Truncate, faulty.Reset, faulty.InternalError, faulty.Unavailable, faulty.LongLength}
	n, err := strconv.Atoi(strings.Split(path, "/")[2])
	if err != nil {
		panic(err) // paths are our own
	}
	if w.objects[n].known {
		faults = append(faults, faulty.WrongBytes, faulty.ShortLength)
	}
	if w.objects[n].size < 1<<20 { // byte by byte, the others would take all day
		faults = append(faults, faulty.Trickle)
	}
	if request%4 == 3 {
		return faulty.None
	}
	f := faulty.Seeded(7, perMille, faults...)(path, request)
	if f != faulty.None {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.met[path]++
	}
	return f
}

// identity is in the key of a copy, and of all attempts at it.
var identity = regexp.MustCompile("[0-9a-f]{64}")

// rule has requests of the S3 fail, but not those of readers: they would learn nothing from it.
func (w *storm) rule(region string) rule {
	var asked atomic.Uint64
	return func(p passage) act {
		if p.kind == signed || !identity.MatchString(p.key) {
			return pass
		}
		h := fnv.New64a()
		fmt.Fprint(h, region, asked.Add(1))
		dice := h.Sum64()
		if dice%oneIn != 0 {
			return pass
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.broken[region+identity.FindString(p.key)]++
		return []act{refuse, cut, lose}[dice/oneIn%3]
	}
}

// run has it all happen, and looks what came of it.
func (w *storm) run() {
	t := w.t
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var running sync.WaitGroup
	for _, region := range away {
		w.want(region)
		for i := range readers {
			running.Go(func() { w.read(ctx, region, rand.New(rand.NewPCG(uint64(i), 1))) })
		}
	}
	running.Go(func() { w.scrape(ctx) })
	for k := range w.kills {
		// At any point, but with something to do after it.
		w.until(int64((k + 1) * len(w.objects) * len(away) / (w.kills + 2)))
		w.kill(w.replicas[rand.IntN(len(w.replicas))])
	}
	w.until(int64(len(w.objects) * len(away)))
	cancel()
	running.Wait()
	w.check()
	t.Logf("%d copies, %d kills, %d downloads compared, %d scrapes", len(w.objects)*len(away), w.kills, w.served.Load(), w.scrapes.Load())
}

// want asks for copies in a region.
func (w *storm) want(region string) {
	w.t.Helper()
	for list := range slices.Chunk(w.objects, 500) {
		var order struct {
			Region string           `json:"region"`
			Copies []map[string]any `json:"copies"`
		}
		order.Region = region
		for _, x := range list {
			item := map[string]any{"url": x.origin.URL}
			if x.known && !x.absent {
				item["sha256"] = w.site.origin.SHA256(x.path)
			}
			order.Copies = append(order.Copies, item)
		}
		if err := w.mirror(w.operator(), "POST", "/copies", nil, order, nil); err != nil {
			w.t.Fatal(err)
		}
	}
}

// until waits until so many copies have ended, well or not.
func (w *storm) until(n int64) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d copies have ended", n), func() error {
		is := w.truth(w.db)
		var ended int64
		for _, region := range away {
			ended += is[region][copies.Present].Objects + is[region][copies.Failed].Objects
		}
		if ended < n {
			return fmt.Errorf("%d have, of %+v", ended, is)
		}
		return nil
	})
}

// rest leaves the processor to those who are tested. It returns false when all is over.
func rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// read is a reader in a region, who asks for anything, all the time.
func (w *storm) read(ctx context.Context, region string, dice *rand.Rand) {
	for rest(ctx, 20*time.Millisecond) {
		x := w.objects[dice.IntN(len(w.objects))]
		if err := w.compare(ctx, region, x, false); err != nil && ctx.Err() == nil {
			w.t.Errorf("in %s: %v", region, err)
			return
		}
	}
}

// compare asks some replica for a thing and, if there is a copy, compares it. A replica may be down; a copy has to be
// there where it is said to be.
func (w *storm) compare(ctx context.Context, region string, x *thing, have bool) error {
	replica := w.replicas[rand.IntN(len(w.replicas))]
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+replica.options.Listen+"/v1/redirect/s3/"+region+"/"+url.PathEscape(x.origin.URL), nil)
	if err != nil {
		return err
	}
	resp, err := asking.Do(r)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	where := resp.Header.Get("Location")
	switch at := w.region(where); {
	case at == region || at == "" && !have && strings.Contains(where, "/api/mirror/v1/stream/"):
	case at != "" || have:
		text, _ := io.ReadAll(resp.Body) // for the message
		return fmt.Errorf("%s is said to be at %q: %s %s", x.path, where, resp.Status, text)
	default:
		return nil // it is not there, or is not to be had
	}
	body, end, err := get(ctx, where, nil)
	switch streamed := w.region(where) == ""; {
	case streamed && (err != nil || strings.HasPrefix(end, w.web.URL)):
		return nil // it broke off, as it does with its origin, or led there
	case err != nil:
		return err
	}
	right, err := io.ReadAll(w.site.origin.Content(x.path))
	if err != nil {
		return err
	}
	if !bytes.Equal(body, right) {
		return fmt.Errorf("%s has %d other bytes than the %d that it should have", where, len(body), len(right))
	}
	w.served.Add(1)
	return nil
}

// asking does not follow redirects.
var asking = &http.Client{
	Transport:     &http.Transport{MaxIdleConnsPerHost: 16},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// scrape compares what replicas tell of the backlog with what it was before and after: nothing is added to it, and nothing
// goes.
func (w *storm) scrape(ctx context.Context) {
	all := int64(len(w.objects))
	for rest(ctx, 100*time.Millisecond) {
		for i, r := range w.replicas {
			before := w.truth(w.db)
			var told map[string]holding
			var err error
			if (w.scrapes.Load()+int64(i))%2 == 0 {
				told, err = w.told(ctx, r)
			} else {
				told, err = w.measured(ctx, r)
			}
			if err != nil {
				continue // it is down
			}
			after := w.truth(w.db)
			for _, region := range away {
				was, says, is := backlog(before[region]), backlog(told[region]), backlog(after[region])
				if says > was || says < is || told[region].objects() != all {
					w.t.Errorf("%s: the backlog is said to be %d, and was %d before and %d after; of %d copies it is told of %+v", region, says, was, is, all, told[region])
				}
			}
			w.scrapes.Add(1)
		}
	}
}

func backlog(h holding) int64 { return h[copies.Waiting].Objects + h[copies.Copying].Objects }

// told is what a replica says of each region.
func (w *storm) told(ctx context.Context, r *replica) (map[string]holding, error) {
	var report report
	err := w.once(r).Do(ctx, client.Request{Name: "mirror.status", Verb: "GET", Route: "/api/mirror/v1/status"}, &report)
	all := map[string]holding{}
	for _, x := range report.Regions {
		all[x.Region] = x.States
		if err == nil && x.Backlog.Objects != backlog(x.States) {
			w.t.Errorf("%s: the backlog is %d, with %+v", x.Region, x.Backlog.Objects, x.States)
		}
	}
	return all, err
}

// once is a client that leaves it at one attempt.
func (w *storm) once(r *replica) *client.Client {
	c, err := client.New(client.Options{RootURL: "http://" + r.options.Listen, Credentials: w.root, Log: quiet, Retry: client.Retry{For: -1}})
	if err != nil {
		w.t.Error(err)
	}
	return c
}

// measured is what its metrics say.
func (w *storm) measured(ctx context.Context, r *replica) (map[string]holding, error) {
	text, _, err := get(ctx, "http://"+r.options.Listen+"/metrics", map[string]string{"Authorization": "Bearer " + w.metrics})
	if err != nil {
		return nil, err
	}
	all := map[string]holding{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		labels, found := strings.CutPrefix(lines.Text(), "taskfleet_mirror_objects{region=\"")
		if !found {
			continue
		}
		var state string
		var n float64
		region, rest, _ := strings.Cut(labels, `"`)
		if _, err := fmt.Sscanf(rest, ",state=%q} %g", &state, &n); err != nil {
			return nil, fmt.Errorf("%s: %w", lines.Text(), err)
		}
		if all[region] == nil {
			all[region] = holding{}
		}
		all[region][copies.State(state)] = copies.Sum{Objects: int64(n)}
	}
	if len(all) == 0 {
		return nil, errors.New("there are no metrics of the mirror")
	}
	return all, nil
}

// check looks at each copy when all is over.
func (w *storm) check() {
	t := w.t
	is := w.truth(w.db)
	for _, region := range away {
		list, err := w.list(region)
		if err != nil {
			t.Fatal(err)
		}
		var running sync.WaitGroup
		for some := range slices.Chunk(w.objects, 1+len(w.objects)/8) {
			running.Go(func() {
				for _, x := range some {
					w.checkCopy(region, x, list[x.origin.ID()])
				}
			})
		}
		running.Wait()
	}
	unexplained := 0
	for _, x := range w.objects {
		// One for each region, and another for each fault.
		gets := w.site.origin.Count(x.path).Gets
		w.mu.Lock()
		explained := len(away) + w.met[x.path] + w.broken[europe+x.origin.ID()] + w.broken[asia+x.origin.ID()]
		w.mu.Unlock()
		if more := gets - explained; more > 0 {
			unexplained += more
			if more > w.kills*len(away) {
				t.Errorf("%s was fetched %d times, of which faults explain %d", x.path, gets, explained)
			}
		}
	}
	// A kill takes what was under way, as many as there were transfers, what readers had begun, and what had ended
	// within the 50 ms for which ends are gathered before they are written down.
	const gathered = 20
	if most := w.kills * (transfers + readers + gathered) * len(away); unexplained > most {
		t.Errorf("%d fetches more than faults explain; %d kills explain %d", unexplained, w.kills, most)
	}
	t.Logf("%d fetches were for the kills; in the end: %+v", unexplained, is)
}

func (w *storm) checkCopy(region string, x *thing, c *view) {
	t := w.t
	switch {
	case c == nil:
		t.Errorf("%s in %s is gone", x.path, region)
	case x.absent && (c.State != copies.Failed || !strings.Contains(c.Error, "404")):
		t.Errorf("%s in %s, of which there is none: %+v", x.path, region, c)
	case c.State == copies.Failed && c.Error == "":
		t.Errorf("%s in %s failed for no reason", x.path, region)
	case c.State == copies.Failed:
	case c.State != copies.Present:
		t.Errorf("%s in %s is stuck: %+v", x.path, region, c)
	case x.known && c.SHA256 != w.site.origin.SHA256(x.path):
		t.Errorf("%s in %s has another SHA-256: %+v", x.path, region, c)
	default:
		if err := w.compare(t.Context(), region, x, true); err != nil {
			t.Error(err)
		}
	}
}

// list are the copies in a region, by id.
func (w *storm) list(region string) (map[string]*view, error) {
	all := map[string]*view{}
	q := url.Values{"region": {region}, "limit": {"1000"}}
	for {
		var page struct {
			Copies            []*view
			ContinuationToken string
		}
		r := client.Request{Name: "mirror.listCopies", Verb: "GET", Route: "/api/mirror/v1/copies", Query: q, Repeatable: true}
		if err := w.operator().Do(w.t.Context(), r, &page); err != nil {
			return nil, err
		}
		for _, c := range page.Copies {
			all[c.ID] = c
		}
		if page.ContinuationToken == "" {
			return all, nil
		}
		q.Set("continuationToken", page.ContinuationToken)
	}
}
