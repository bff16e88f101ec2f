//go:build !agent

package bench

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	calls "github.com/taskfleet/taskfleet/client/mirror"
	"github.com/taskfleet/taskfleet/mirror"
	"github.com/taskfleet/taskfleet/mirror/region"
)

const redirectConnections = 64

// redirects measures redirects to copies that are there.
func (m *mirrorSite) redirects(ctx context.Context) error {
	m.say("redirects to %d copies, %d a second", m.copies, m.Rate)
	target, err := m.bucket(ctx, m.home)
	if err != nil {
		return err
	}
	s, err := m.stand(ctx, target, nil)
	if err != nil {
		return err
	}
	defer s.close()
	const size = 100
	keys := m.keys(size, m.copies)
	if err := m.seed(ctx, keys, size); err != nil {
		return err
	}
	if err := s.copy(ctx, m.originals.Name(), keys); err != nil {
		return err
	}
	load := MirrorLoad{Address: s.address, Connections: redirectConnections, Rate: float64(m.Rate)}
	for _, key := range keys {
		name, err := blob.Spell(key)
		if err != nil {
			return err
		}
		load.Paths = append(load.Paths, s.redirect(m.originals.URLForms()[0]+name))
	}
	load.Requests = m.warm
	if _, err := m.Generate(ctx, load); err != nil {
		return err
	}
	load.Requests = max(int(load.Rate*m.Duration.Seconds()), 1)
	var r MirrorLoadResult
	_, cpu, err := timed(func() (err error) {
		r, err = m.Generate(ctx, load)
		return err
	})
	switch {
	case err != nil:
		return err
	case r.Failure != "" || r.Copies != load.Requests:
		return fmt.Errorf("of %d redirects to copies %d were some, and %d to elsewhere: %s", load.Requests, r.Copies, r.Others, r.Failure)
	}
	if rate := float64(load.Requests) / r.Took.Seconds(); rate < 0.95*load.Rate {
		m.leaveOut("%d redirects a second: there were %.0f, with those latencies", m.Rate, rate)
	}
	if cpu > 0 {
		m.foundTime("redirect, CPU", cpu/time.Duration(load.Requests), goalRedirect)
	}
	m.foundTime("redirect, half within", r.P50, goalLatency)
	m.foundTime("redirect, 99 % within", r.P99, goalLatency)
	return nil
}

// redirect is the path of the redirect to a copy of what is at a URL.
func (s *mirrorStand) redirect(of string) string {
	return "/api/mirror/v1/redirect/s3/" + s.region + "/" + url.PathEscape(of)
}

// addresses measures how the region of an address is found, of addresses of which
// half or so are AWS's.
func (m *mirrorSite) addresses(context.Context) error {
	m.say("addresses")
	f, err := region.New(region.Config{Regions: []string{"eu-central-1"}, Log: m.log})
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(1, 2))
	list := make([]netip.Addr, 4096)
	for i := range list {
		switch v4, v6 := [4]byte{}, [16]byte{0x26, 0x00, 0x1f, byte(0x10 + r.IntN(16))}; i % 4 {
		case 0, 1:
			v4 = [4]byte{byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())}
			if i%4 == 1 {
				v4[0] = []byte{3, 18, 52, 54}[r.IntN(4)]
			}
			list[i] = netip.AddrFrom4(v4)
		default:
			if i%4 == 3 {
				v6 = [16]byte{0x20, 0x01}
			}
			for j := 4; j < len(v6); j++ {
				v6[j] = byte(r.Uint32())
			}
			list[i] = netip.AddrFrom16(v6)
		}
	}
	const times = 500
	took, _, _ := timed(func() error {
		for range times {
			for _, a := range list {
				f.Address(a)
			}
		}
		return nil
	})
	m.foundTime("region of an address", took/time.Duration(times*len(list)), goalAddress)
	return nil
}

const crowdObject = 4 << 20

// crowds measures what many have to wait for who ask for an object at the same
// time that there is no copy of.
func (m *mirrorSite) crowds(ctx context.Context) error {
	o, err := newOrigin(bytes.Repeat([]byte("0123456789abcdef"), crowdObject/16))
	if err != nil {
		return err
	}
	defer o.close()
	target, err := m.bucket(ctx, m.home)
	if err != nil {
		return err
	}
	s, err := m.stand(ctx, target, []string{o.url + "/"}, mirror.Route{Name: "slow", URL: o.url + "/slow/*", Policy: mirror.Wait, MaxWait: m.limit})
	if err != nil {
		return err
	}
	defer s.close()
	most, late := 0, time.Duration(0)
	for round := range m.Rounds {
		m.say("%d wait for an object, round %d of %d", m.Waiters, round+1, m.Rounds)
		object := fmt.Sprintf("/%d/object", round)
		o.delay.Store(int64(m.gather))
		r, err := m.crowd(ctx, s, o.url+object)
		if err != nil {
			return err
		}
		if r.Copies != m.Waiters {
			return fmt.Errorf("of %d who waited for a copy %d got it, and %d the origin", m.Waiters, r.Copies, r.Others)
		}
		list, err := s.client.ListCopies(ctx, calls.ListCopiesOptions{Region: s.region, Prefix: o.url + object})
		if err != nil {
			return err
		}
		if len(list.Copies) != 1 {
			return fmt.Errorf("there are %d copies of one object", len(list.Copies))
		}
		most = max(most, o.fetched(object))
		late = max(late, r.Last.Sub(list.Copies[0].Requested.Time())) // since it is there
	}
	of := fmt.Sprintf("%d ask at once", m.Waiters)
	m.found(MirrorFigure{What: of + ": fetches", Unit: Requests, Value: float64(most), Goal: goalFetches})
	m.foundTime(of+": answers", late, goalAnswers)

	m.say("%d wait for an object that does not come", m.Waiters)
	o.delay.Store(int64(time.Hour))
	r, err := m.crowd(ctx, s, o.url+"/slow/object")
	if err != nil {
		return err
	}
	if r.Others != m.Waiters {
		return fmt.Errorf("of %d who waited for what does not come %d got it", m.Waiters, r.Copies)
	}
	m.foundTime("too slow: past the limit", r.Max-m.limit, goalLate)
	return nil
}

// crowd has many ask for a copy of what is at a URL.
func (m *mirrorSite) crowd(ctx context.Context, s *mirrorStand, of string) (MirrorLoadResult, error) {
	r, err := m.Generate(ctx, MirrorLoad{Address: s.address, Paths: []string{s.redirect(of)}, Requests: m.Waiters, Connections: m.Waiters})
	if err == nil && r.Failure != "" {
		err = fmt.Errorf("one who waited: %s", r.Failure)
	}
	return r, err
}

// An origin is an HTTP server that has the same bytes under all paths, and takes
// its time.
type origin struct {
	url   string
	body  []byte
	delay atomic.Int64 // of the answer to a GET, in nanoseconds

	web  *http.Server
	mu   sync.Mutex
	gets map[string]int // by path
}

func newOrigin(body []byte) (*origin, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	o := &origin{url: "http://" + l.Addr().String(), body: body, gets: map[string]int{}}
	o.web = &http.Server{Handler: o}
	go o.web.Serve(l)
	return o, nil
}

func (o *origin) close() error { return o.web.Close() }

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		o.mu.Lock()
		o.gets[r.URL.Path]++
		o.mu.Unlock()
		select {
		case <-time.After(time.Duration(o.delay.Load())):
		case <-r.Context().Done():
			return
		}
	}
	w.Header().Set("ETag", `"1"`)
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(o.body))
}

// fetched is how often an object was.
func (o *origin) fetched(path string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.gets[path]
}
