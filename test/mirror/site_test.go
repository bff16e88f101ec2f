package mirror

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/blob/gateway"
	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/cred"
	copies "github.com/taskfleet/taskfleet/mirror"
	"github.com/taskfleet/taskfleet/mirror/source/faulty"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/test/daemon"
	"github.com/taskfleet/taskfleet/test/server"
)

// The regions. At home is the bucket of artifacts.
const (
	home   = "us-west-2"
	europe = "eu-central-1"
	asia   = "ap-southeast-1"
)

var away = []string{europe, asia}

// A site is a platform with three regions.
type site struct {
	t        *testing.T
	doors    map[string]*door // by region
	buckets  map[string]*blob.Bucket
	origin   *faulty.Origin // of what is no artifact
	web      *httptest.Server
	replicas []*replica
	database string // URL of store
	root     cred.Credentials
	metrics  string // token
}

// A replica is one process, or none while it is down.
type replica struct {
	options server.Options
	*server.Server
}

// settings say what a site is made of.
type settings struct {
	database string         // URL of storetest
	replicas int            // 0 is 1
	moto     string         // URL of moto, which is then the S3 of home and of Europe, and copies between them
	mirror   string         // more of the section of the configuration, each line indented by two
	origin   *faulty.Origin // nil: one without faults
	allow    []string       // rules for URLs beside that for the origin
	quick    bool           // the servers do not check what they answer
}

const (
	secret    = "a key for tests alone"
	transfers = 8 // of each replica to each region
)

func newSite(t *testing.T, c settings) *site {
	t.Helper()
	s := &site{t: t, doors: map[string]*door{}, buckets: map[string]*blob.Bucket{}, origin: c.origin, metrics: slugid.Token()}
	if s.origin == nil {
		s.origin = faulty.New(1)
	}
	s.web = httptest.NewServer(s.origin)
	t.Cleanup(s.web.Close)
	s.openDoors(c.moto)
	var config strings.Builder
	fmt.Fprintf(&config, "metricsToken: %s\nsecretsFile: %s\ns3: %s\nmirror:\n  home: %s\n  regions:\n", s.metrics, s.secrets(), s.place(home), home)
	for _, region := range away {
		fmt.Fprintf(&config, "  - %s\n", strings.Replace(s.place(region), "{", fmt.Sprintf("{name: %s, transfers: %d, ", region, transfers), 1))
	}
	fmt.Fprintf(&config, "  ipRanges: none\n  allow: [%s]\n  allowAddresses: [127.0.0.0/8]\n%s",
		strings.Join(append(c.allow, s.web.URL+"/pub/"), ", "), c.mirror)

	data := t.TempDir()
	for i := range max(1, c.replicas) {
		o := server.Options{Binary: binary, Data: filepath.Join(data, fmt.Sprint("replica-", i)), Listen: freeAddress(t), CheckOutput: !c.quick}
		if strings.HasPrefix(c.database, "postgres:") {
			o.Database, s.database = c.database, c.database
		} else {
			s.database = "sqlite:" + filepath.Join(o.Data, "taskfleet.db")
		}
		s.replicas = append(s.replicas, &replica{options: o})
	}
	for _, r := range s.replicas {
		r.options.Config = "rootUrl: http://" + s.replicas[0].options.Listen + "\n" + config.String()
		s.start(r)
		t.Cleanup(func() {
			if t.Failed() {
				log := r.Log()
				t.Logf("the log of %s:\n%s", r.options.Data, log[max(0, len(log)-20_000):])
			}
			if err := r.Kill(); err != nil {
				t.Error(err)
			}
		})
	}
	s.root = cred.Credentials{ClientID: s.replicas[0].ClientID, AccessToken: s.replicas[0].AccessToken}
	return s
}

// openDoors has an S3 behind the door of each region. Where two regions have the same door the S3 copies from the one
// bucket to the other by itself.
func (s *site) openDoors(moto string) {
	t := s.t
	t.Helper()
	g, err := gateway.Start(t.Context(), gateway.Config{
		Directory: t.TempDir(), Listen: "127.0.0.1:0", AccessKeyID: "test", SecretAccessKey: secret, Log: quiet,
		NoSync: true, // it is not this S3 that is tested
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, region := range []string{home, europe, asia} {
		switch {
		case moto == "" || region == asia:
			s.doors[region] = newDoor(t, g.Blob().Endpoint)
		case region == home:
			s.doors[region] = newDoor(t, moto)
		default:
			s.doors[region] = s.doors[home]
		}
		st, err := blob.Open(t.Context(), blob.Config{
			Endpoint: s.doors[region].url, Region: "us-east-1", PathStyle: true, AccessKeyID: "test", SecretAccessKey: secret,
		})
		if err != nil {
			t.Fatal(err)
		}
		s.buckets[region] = st.Bucket(fmt.Sprintf("%s-%s", region, strings.ToLower(newName("b"))))
	}
}

func newName(kind string) string {
	return kind + "-" + strings.NewReplacer("-", "", "_", "").Replace(slugid.New())
}

// place is the configuration of a region's bucket.
func (s *site) place(region string) string {
	return fmt.Sprintf("{endpoint: %q, region: us-east-1, bucket: %s, accessKeyId: test, secretAccessKey: %s, pathStyle: true}",
		s.doors[region].url, s.buckets[region].Name(), secret)
}

// secrets are the file that replicas share.
func (s *site) secrets() string {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "secrets.json")
	text, err := exec.CommandContext(s.t.Context(), binary, "config", "secrets").Output()
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return file
}

// freeAddress is one on which nothing listens; the same from now on, so that clients find a replica again.
func freeAddress(t *testing.T) string {
	t.Helper()
	port, err := daemon.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

func (s *site) start(r *replica) {
	s.t.Helper()
	running, err := server.Start(context.Background(), r.options)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Server = running
}

// kill ends a replica with no chance to do anything more, and starts it again.
func (s *site) kill(r *replica) {
	s.t.Helper()
	if err := r.Kill(); err != nil {
		s.t.Fatal(err)
	}
	s.start(r)
}

// as is a client with credentials that asks a replica, with headers beside its own.
func (s *site) as(r *replica, credentials cred.Credentials, headers map[string]string) *client.Client {
	s.t.Helper()
	c, err := client.New(client.Options{
		RootURL: "http://" + r.options.Listen, Credentials: credentials, Log: quiet,
		Transport: &with{&http.Transport{MaxIdleConnsPerHost: 32}, headers}, Retry: client.Retry{For: patience, MaxWait: time.Second},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// with adds headers to requests. They are not signed.
type with struct {
	http.RoundTripper
	headers map[string]string
}

func (w *with) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	for name, value := range w.headers {
		r.Header.Set(name, value)
	}
	return w.RoundTripper.RoundTrip(r)
}

// operator is a client that may do everything.
func (s *site) operator() *client.Client { return s.as(s.replicas[0], s.root, nil) }

// mirror calls a method of the mirror.
func (s *site) mirror(c *client.Client, verb, route string, args []string, in, out any) error {
	return c.Do(s.t.Context(), client.Request{Name: verb + " " + route, Verb: verb, Route: "/api/mirror/v1" + route, Args: args, In: in, Repeatable: true}, out)
}

// A report is what the mirror says of itself, by region.
type report struct {
	Regions []struct {
		Region  string
		States  map[copies.State]copies.Sum
		Backlog copies.Sum
		Errors  []struct {
			State    copies.State
			Attempts int
			Error    string
		}
	}
}

func (s *site) status(c *client.Client) (r report, err error) {
	err = s.mirror(c, "GET", "/status", nil, nil, &r)
	return r, err
}

// A holding is what a region has, by state.
type holding map[copies.State]copies.Sum

func (h holding) objects() (n int64) {
	for _, sum := range h {
		n += sum.Objects
	}
	return n
}

// truth counts the rows, and compares them with the tallies, at one moment.
func (s *site) truth(db *store.DB) map[string]holding {
	s.t.Helper()
	var rows, tallies map[string]holding
	err := db.View(s.t.Context(), func(tx *store.Tx) (err error) {
		if rows, err = holdings(tx, `SELECT region, state, count(*), sum(CASE WHEN size > 0 THEN size ELSE 0 END) FROM mirror_copy GROUP BY region, state`); err == nil {
			tallies, err = holdings(tx, `SELECT region, state, objects, bytes FROM mirror_tally`)
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, region := range away {
		for _, state := range states {
			if is, told := rows[region][state], tallies[region][state]; is != told {
				s.t.Errorf("%s, %s: there are %+v, and the tally says %+v", region, state, is, told)
			}
		}
	}
	return rows
}

var states = []copies.State{copies.Waiting, copies.Copying, copies.Present, copies.Failed, copies.Leaving}

func holdings(tx *store.Tx, statement string) (map[string]holding, error) {
	all := map[string]holding{}
	rows, err := tx.Query(statement)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		var region string
		var state copies.State
		var sum copies.Sum
		if err := rows.Scan(&region, &state, &sum.Objects, &sum.Bytes); err != nil {
			return nil, err
		}
		if all[region] == nil {
			all[region] = holding{}
		}
		all[region][state] = sum
	}
	return all, rows.Err()
}

// get downloads from a URL, over redirects. It returns where it ended.
func get(ctx context.Context, url string, headers map[string]string) (body []byte, where string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, "", err
	}
	for name, value := range headers {
		r.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	where = resp.Request.URL.String()
	body, err = io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %.300s", resp.Request.URL.Path, resp.Status, body)
	}
	return body, where, err
}

// region is the one in whose bucket a URL is; "" if it is in none.
func (s *site) region(url string) string {
	for region, b := range s.buckets {
		if strings.HasPrefix(url, s.doors[region].url+"/"+b.Name()+"/") {
			return region
		}
	}
	return ""
}
