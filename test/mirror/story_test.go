package mirror

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/client/queue"
	copies "github.com/taskfleet/taskfleet/mirror"
	"github.com/taskfleet/taskfleet/mirror/source/faulty"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// routes are those of the story. Nothing here depends on how long somebody waits.
const routes = `  trustedProxies: [127.0.0.0/8]
  networks: {10.1.0.0/16: eu-central-1, "2001:db8::/32": ap-southeast-1, 10.1.7.0/24: us-west-2}
  routes:
  - {name: outage, artifact: "public/outage/*", maxWait: 300ms}
  - {name: ahead, artifact: "public/ahead/*", ahead: true, maxWait: 60s}
  - {name: streamed, artifact: "public/streamed/*", policy: stream}
  - {name: rest, maxWait: 60s}
`

func TestTheStory(t *testing.T) {
	t.Parallel()
	storetest.EachURL(t, func(t *testing.T, database string) {
		t.Parallel()
		story(t, settings{database: database, mirror: routes})
	})
}

// With moto the store copies from home to Europe by itself, and what goes to Asia goes from one S3 to another.
func TestTheStoryOnMoto(t *testing.T) {
	t.Parallel()
	moto := os.Getenv("TASKFLEET_TEST_MOTO")
	if moto == "" {
		t.Fatal("TASKFLEET_TEST_MOTO is not set: run `make test`, which installs moto, starts it and says where it is")
	}
	// What differs is the S3, not the database.
	story(t, settings{database: storetest.URL(t, "sqlite"), mirror: routes, moto: moto})
}

func story(t *testing.T, c settings) {
	s := newSite(t, c)
	made := []*artifact{
		{name: "public/empty"},
		{name: "public/tool", content: noise(1000)},
		{name: "private/key", content: noise(1001)},
		{name: "public/build/target.tar.gz", content: noise(1 << 20)},
		{name: "private/symbols/naïve name?.zip", content: noise(1<<20 + 1)},
		{name: "public/disk.img", content: noise(10 << 20)}, // in parts
		{name: "public/streamed/log", content: noise(3 << 20)},
		{name: "public/ahead/sdk", content: noise(100_000)},
	}
	s.build(made...)
	s.inAllRegions(made)
	s.references()
	s.outage(made[1])
	s.purge(made[1], made[3])
	s.rebuild(made)
}

// fetches counts how often an artifact was read at home, or copied from there.
func (s *site) fetches(a *artifact) int {
	bucket := s.buckets[home].Name()
	is := func(p passage) bool {
		return p.kind == read && p.bucket == bucket && p.key == a.key() || p.kind == copied && p.source == bucket+"/"+a.key()
	}
	n := 0
	for _, d := range s.allDoors() {
		n += len(d.seen(is))
	}
	return n
}

// allDoors are the doors, each once.
func (s *site) allDoors() []*door {
	list := []*door{s.doors[home], s.doors[europe], s.doors[asia]}
	return slices.Compact(list)
}

// onceEach checks that artifacts were fetched once for each of the other regions.
func (s *site) onceEach(list []*artifact) {
	s.t.Helper()
	for _, a := range list {
		if n := s.fetches(a); n != len(away) {
			s.t.Errorf("%s was fetched %d times for %d regions", a.name, n, len(away))
		}
	}
}

// inAllRegions runs tasks in all regions that read what a task at home has made.
func (s *site) inAllRegions(made []*artifact) {
	t := s.t
	const tasks = 4 // in each region
	for _, region := range []string{home, europe, asia} {
		for range tasks {
			s.task(region, made[0].taskID)
		}
	}
	var running sync.WaitGroup
	for _, region := range []string{home, europe, asia} {
		for i := range tasks {
			running.Go(func() {
				id, calls, err := s.claim(t.Context(), region, fmt.Sprint("worker-", i))
				if err != nil {
					t.Errorf("claiming in %s: %v", region, err)
					return
				}
				s.work(calls, region, made)
				if _, err := calls.ReportCompleted(t.Context(), id, 0); err != nil {
					t.Error(err)
				}
			})
		}
	}
	running.Wait()
	s.onceEach(made)

	// So much for worker groups. Others say where they are, or are where their network is.
	for _, region := range []string{home, europe, asia} {
		s.expect(t, s.near(region), region, made...)
	}
	for address, region := range map[string]string{"10.1.2.3": europe, "10.1.7.1": home, "2001:db8::1": asia, "192.0.2.1": home} {
		s.expect(t, queue.New(s.as(s.replicas[0], s.root, map[string]string{"X-Forwarded-For": address})), region, made[1], made[2])
	}
	// And who wants none gets none.
	skips := s.as(s.replicas[0], s.root, map[string]string{"X-Taskfleet-Region": europe, "x-taskcluster-skip-cache": "true"})
	s.expect(t, queue.New(skips), home, made[1], made[2])
	// Old clients ask by URL, for what is public.
	for _, base := range []string{"/v1/redirect/s3/", "/api/mirror/v1/redirect/s3/"} {
		s.expectURL(s.objectURL(made[3]), base, europe, made[3].content)
	}
	s.onceEach(made)
	s.balanced(int64(len(made)))
}

// work does what a task does: it downloads all artifacts, together.
func (s *site) work(calls *queue.Client, region string, made []*artifact) {
	var running sync.WaitGroup
	for _, a := range made {
		running.Go(func() {
			s.comesFrom(s.t, a.name, region, func() (string, error) {
				where, err := s.fetch(s.t.Context(), calls, a)
				if where == "" && a.name == "public/streamed/log" && region != home {
					where = region // while it was stored there
				}
				return where, err
			})
		})
	}
	running.Wait()
}

// balanced waits until each of the other regions has so many copies, and nothing else.
func (s *site) balanced(copied int64) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("%d copies are in each region", copied), func() error {
		r, err := s.status(s.operator())
		if err != nil {
			s.t.Fatal(err)
		}
		for _, x := range r.Regions {
			var all int64
			for _, sum := range x.States {
				all += sum.Objects
			}
			if x.States[copies.Present].Objects != copied || all != copied || x.Backlog != (copies.Sum{}) {
				return fmt.Errorf("%+v", x)
			}
		}
		return nil
	})
}

// outage has the bucket in Europe fail, in two ways, and come back. There is a copy of old in it.
func (s *site) outage(old *artifact) {
	t := s.t
	var made []*artifact
	for i := range 6 {
		made = append(made, &artifact{name: fmt.Sprint("public/outage/", i), content: noise(2000 + i)})
	}
	made = append(made, &artifact{name: "public/outage/large", content: noise(9 << 20)})
	s.build(made...)
	bucket := s.buckets[europe].Name()
	fails := func(with act) rule {
		return func(p passage) act {
			if p.bucket == bucket {
				return with
			}
			return pass
		}
	}
	// It answers with errors. Whoever is there gets what there is at home, and those in Asia notice nothing.
	s.doors[europe].keep(fails(refuse))
	s.expect(t, s.near(europe), home, made[:3]...)
	s.order(asia, made)
	s.present(asia, made)
	s.expect(t, s.near(asia), asia, made...)
	eventually(t, "an attempt has failed", func() error {
		r, err := s.status(s.operator())
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range r.Regions {
			switch n := x.Backlog.Objects; {
			case x.Region == asia && (n > 0 || len(x.Errors) > 0):
				t.Fatalf("in %s there is nothing wrong: %+v", asia, x)
			case x.Region == europe && n != 3:
				t.Fatalf("%d copies are to be made in %s", n, europe)
			case x.Region == europe && len(x.Errors) == 0:
				return errors.New("none")
			}
		}
		return nil
	})
	// What was copied before cannot be had, so that readers are not sent there any more.
	leadsTo := func(region string) {
		eventually(t, "readers in Europe are sent to "+region, func() error {
			if where, err := s.fetch(t.Context(), s.near(europe), old); err != nil || where != region {
				return fmt.Errorf("%q, %v", where, err)
			}
			return nil
		})
	}
	leadsTo(home)
	// Then it does not answer at all.
	s.doors[europe].keep(fails(hold))
	s.expect(t, s.near(europe), home, made[3:]...)
	// When it is back all of them are copied, without anybody asking for them again.
	s.doors[europe].keep(open)
	s.present(europe, made)
	leadsTo(europe)
	s.expect(t, s.near(europe), europe, made...)
}

// order asks for copies that nobody waits for.
func (s *site) order(region string, list []*artifact) {
	s.t.Helper()
	var items []any
	for _, a := range list {
		items = append(items, map[string]string{"url": s.objectURL(a)})
	}
	if err := s.mirror(s.operator(), "POST", "/copies", nil, map[string]any{"region": region, "copies": items}, nil); err != nil {
		s.t.Fatal(err)
	}
}

// present waits until copies are there.
func (s *site) present(region string, list []*artifact) {
	s.t.Helper()
	eventually(s.t, "copies are in "+region, func() error {
		for _, a := range list {
			if c, err := s.copy(region, s.originOf(a)); err != nil || c.State != copies.Present {
				return fmt.Errorf("%s: %+v, %v", a.name, c, err)
			}
		}
		return nil
	})
}

// A view is what the mirror tells of a copy.
type view struct {
	ID     string
	State  copies.State
	Done   int64
	SHA256 string
	Error  string
}

func (s *site) copy(region string, o copies.Origin) (v view, err error) {
	err = s.mirror(s.operator(), "GET", "/copies/<region>/<id>", []string{region, o.ID()}, nil, &v)
	return v, err
}

// purge has copies go everywhere, or in one region, and come again.
func (s *site) purge(everywhere, inAsia *artifact) {
	t := s.t
	delete := func(region string, a *artifact) {
		if err := s.mirror(s.operator(), "DELETE", "/purge/s3/<region>/<url>", []string{region, s.objectURL(a)}, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	gone := func(region string, a *artifact) {
		eventually(t, "the bytes are gone", func() error {
			for o, err := range s.buckets[region].List(t.Context(), "") {
				if err != nil || strings.Contains(o.Key, s.originOf(a).ID()) {
					return fmt.Errorf("%s, %v", o.Key, err)
				}
			}
			return nil
		})
	}
	delete("all", everywhere)
	delete(asia, inAsia)
	for _, region := range away {
		gone(region, everywhere)
	}
	gone(asia, inAsia)
	was := []int{s.fetches(everywhere), s.fetches(inAsia)}
	eventually(t, "the rows are gone", func() error {
		for _, region := range away {
			if c, err := s.copy(region, s.originOf(everywhere)); err == nil {
				return fmt.Errorf("%+v", c)
			}
		}
		if c, err := s.copy(asia, s.originOf(inAsia)); err == nil {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	for _, region := range away {
		s.expect(t, s.near(region), region, everywhere, inAsia)
	}
	if now := []int{s.fetches(everywhere), s.fetches(inAsia)}; now[0] != was[0]+len(away) || now[1] != was[1]+1 {
		t.Errorf("after a purge everywhere and one in one region %v fetches became %v", was, now)
	}
}

// rebuild loses the index. It is made anew from what is in the buckets.
func (s *site) rebuild(made []*artifact) {
	t := s.t
	r := s.replicas[0]
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	db := storetest.Open(t, s.database)
	before := s.truth(db)
	err := db.Do(t.Context(), func(tx *store.Tx) error {
		for _, table := range []string{"mirror_copy", "mirror_tally", "mirror_sweep", "mirror_scrub"} {
			if _, err := tx.Exec("DELETE FROM " + table); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	count := func() (fetched, stored int) {
		for _, a := range made {
			fetched += s.fetches(a)
		}
		for _, d := range s.allDoors() {
			stored += len(d.seen(func(p passage) bool { return p.writes() && p.bucket != s.buckets[home].Name() }))
		}
		return fetched, stored
	}
	fetched, stored := count()
	asked := s.origin.Count("/pub/reference").Gets
	s.start(r)
	eventually(t, "the index is what it was", func() error {
		if now := s.truth(db); !maps.EqualFunc(now, before, func(a, b holding) bool { return maps.Equal(a, b) }) {
			return fmt.Errorf("it was %+v and is %+v", before, now)
		}
		return nil
	})
	for _, region := range away {
		s.expect(t, s.near(region), region, made...)
	}
	if f, w := count(); f != fetched || w != stored || s.origin.Count("/pub/reference").Gets != asked {
		t.Errorf("to make the index anew %d objects were fetched again, and %d requests wrote", f-fetched, w-stored)
	}
}

// references has an artifact that is only a link to another, and one that refers to a URL.
func (s *site) references() {
	t, ctx := s.t, s.t.Context()
	const path = "/pub/reference"
	s.origin.Put(path, faulty.Object{Size: 50_000})
	content, err := io.ReadAll(s.origin.Content(path))
	if err != nil {
		t.Fatal(err)
	}
	target := &artifact{name: "public/target", content: noise(70_000)}
	link := &artifact{name: "public/link", content: target.content}
	reference := &artifact{name: "public/reference", content: content}
	s.buildWith(func(id string, calls *queue.Client) error {
		link.taskID, reference.taskID = id, id
		expires := timestamp.Now().Add(time.Hour)
		_, err := calls.CreateArtifact(ctx, id, 0, link.name, &queue.PostArtifactRequest{StorageType: "link", Artifact: target.name, Expires: expires})
		if err != nil {
			return err
		}
		_, err = calls.CreateArtifact(ctx, id, 0, reference.name, &queue.PostArtifactRequest{
			StorageType: "reference", URL: s.web.URL + path + "?version=1", ContentType: "text/plain", Expires: expires,
		})
		return err
	}, target)
	for _, region := range away {
		s.expect(t, s.near(region), region, target, link, reference)
	}
	s.onceEach([]*artifact{target})
	if n := s.origin.Count(path).Gets; n != len(away) {
		t.Errorf("what an artifact refers to was fetched %d times for %d regions", n, len(away))
	}
	where, err := s.fetch(ctx, s.near(home), reference)
	if err != nil || where != "" {
		t.Errorf("at home the reference leads to %q, %v", where, err)
	}
}

// objectURL is that of an artifact in its bucket.
func (s *site) objectURL(a *artifact) string {
	name, err := blob.Spell(a.key())
	if err != nil {
		s.t.Fatal(err)
	}
	return s.doors[home].url + (&url.URL{Path: "/" + s.buckets[home].Name() + "/" + name}).EscapedPath()
}

// expectURL asks for a URL in a region, with no credentials.
func (s *site) expectURL(text, base, region string, content []byte) {
	s.t.Helper()
	s.comesFrom(s.t, base+region, region, func() (string, error) {
		body, where, err := get(s.t.Context(), s.replicas[0].Address+base+region+"/"+url.PathEscape(text), nil)
		if err == nil && !bytes.Equal(body, content) {
			err = fmt.Errorf("%s%s leads to %d other bytes than the %d that there should be", base, region, len(body), len(content))
		}
		return s.region(where), err
	})
}

// A large copy whose copier is killed in the middle goes on where it was.
func TestALargeCopyGoesOnAfterAKill(t *testing.T) {
	t.Parallel()
	storetest.EachURL(t, func(t *testing.T, database string) {
		t.Parallel()
		s := newSite(t, settings{database: database, mirror: routes})
		const partSize, there, parts = 8 << 20, 2, 5
		a := &artifact{name: "public/large", content: noise(parts*partSize - 1)}
		s.build(a)
		// Two parts come through, and no more.
		s.doors[europe].keep(func(p passage) act {
			if p.kind == part && p.part > there {
				return hold
			}
			return pass
		})
		s.order(europe, []*artifact{a})
		eventually(t, "two parts are there, and written down", func() error {
			if c, err := s.copy(europe, s.originOf(a)); err != nil || c.Done != there*partSize {
				return fmt.Errorf("%+v, %v", c, err)
			}
			return nil
		})
		if err := s.replicas[0].Kill(); err != nil {
			t.Fatal(err)
		}
		s.doors[europe].keep(open)
		s.start(s.replicas[0])
		s.present(europe, []*artifact{a})
		s.expect(t, s.near(europe), europe, a)
		c, err := s.copy(europe, s.originOf(a))
		if sum := sha256.Sum256(a.content); err != nil || c.SHA256 != hex.EncodeToString(sum[:]) {
			t.Errorf("its SHA-256 is %s instead of %x, %v", c.SHA256, sum, err)
		}
		of := func(k kind) []passage {
			return s.doors[europe].seen(func(p passage) bool { return p.kind == k && p.status == http.StatusOK })
		}
		if n := len(of(begin)); n != 1 {
			t.Errorf("%d uploads were begun", n)
		}
		times := map[int]int{}
		for _, p := range of(part) {
			times[p.part]++
		}
		for n := 1; n <= parts; n++ {
			// A part that was under way when the copier was killed may have come after all.
			if times[n] != 1 && (n <= there || times[n] != 2) {
				t.Errorf("part %d was stored %d times", n, times[n])
			}
		}
		reads := s.doors[home].seen(func(p passage) bool { return p.kind == read && p.key == a.key() })
		if len(reads) != 2 || reads[1].bytes != fmt.Sprintf("bytes=%d-", there*partSize) && reads[0].bytes != fmt.Sprintf("bytes=%d-", there*partSize) {
			t.Errorf("the origin was read like this: %+v", reads)
		}
	})
}
