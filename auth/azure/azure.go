// Package azure signs access to tables and blob containers of storage accounts
// on Azure: it implements auth.Azure.
//
// It holds the accounts' keys. A shared access signature is an HMAC under such
// a key, made here without asking anybody; see sas.go. Listing and creating are
// requests to Azure, signed with the key; see request.go.
//
// This speaks Azure's REST protocol itself, of which it needs four requests.
// The SDK has the two services in two modules, of which one comes with a whole
// columnar data format; and Azure keeps old versions of the protocol working.
package azure

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/auth"
)

// An Account is a storage account. The endpoints are Azure's own where they are
// "".
type Account struct {
	Key           string `yaml:"key"` // base64, as Azure shows it
	BlobEndpoint  string `yaml:"blobEndpoint"`
	TableEndpoint string `yaml:"tableEndpoint"`
}

// LogValue leaves the key out.
func (a Account) LogValue() slog.Value {
	return slog.GroupValue(slog.String("blobEndpoint", a.BlobEndpoint), slog.String("tableEndpoint", a.TableEndpoint))
}

// String leaves the key out.
func (a Account) String() string { return a.LogValue().String() }

// GoString leaves the key out.
func (a Account) GoString() string { return a.String() }

// Config says what access is given to.
type Config struct {
	Accounts  map[string]Account `yaml:"accounts"` // by their names
	Transport http.RoundTripper  `yaml:"-"`        // for tests
}

// Storage signs access to the accounts.
type Storage struct {
	client   *http.Client
	accounts map[string]*account

	mu    sync.Mutex
	known map[string]time.Time // what was created or found to exist, and when
}

// account is opaque to fmt, as it has the key.
type account struct {
	name        string
	key         []byte
	blob, table *url.URL
}

func (a *account) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "storage account %s", a.name) }

var _ auth.Azure = (*Storage)(nil)

const (
	timeout = 20 * time.Second
	page    = 1000 // names

	validity = 25 * time.Minute
	slack    = 15 * time.Minute // that Azure's clock may be behind ours

	// Whatever exists is taken to exist for this long. Callers come every
	// validity, and find out themselves if somebody has deleted it.
	existsFor = 6 * time.Hour
	maxKnown  = 10_000
)

var accountName = regexp.MustCompile(`^[a-z0-9]{3,24}$`)

// New checks the configuration. It does not connect.
func New(c Config) (*Storage, error) {
	s := &Storage{client: &http.Client{Transport: c.Transport, Timeout: timeout}, accounts: map[string]*account{}, known: map[string]time.Time{}}
	for name, x := range c.Accounts {
		if !accountName.MatchString(name) {
			return nil, fmt.Errorf("auth: azure: %q cannot be a storage account: names match %s", name, accountName)
		}
		key, err := base64.StdEncoding.DecodeString(x.Key)
		if err != nil || len(key) < 32 {
			return nil, fmt.Errorf("auth: azure: the key of the storage account %s is not base64 of at least 32 bytes; copy it as Azure shows it", name)
		}
		a := &account{name: name, key: key}
		for kind, to := range map[string]struct {
			given string
			to    **url.URL
		}{"blob": {x.BlobEndpoint, &a.blob}, "table": {x.TableEndpoint, &a.table}} {
			if to.given == "" {
				to.given = "https://" + name + "." + kind + ".core.windows.net"
			}
			u, err := url.Parse(strings.TrimSuffix(to.given, "/"))
			if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.User != nil {
				return nil, fmt.Errorf("auth: azure: the %sEndpoint of the storage account %s is not an http or https URL without user and query", kind, name)
			}
			*to.to = u
		}
		s.accounts[name] = a
	}
	return s, nil
}

// Accounts implements auth.Azure.
func (s *Storage) Accounts() []string { return slices.Sorted(maps.Keys(s.accounts)) }

func (s *Storage) account(name string) (*account, error) {
	if a := s.accounts[name]; a != nil {
		return a, nil
	}
	return nil, api.Errorf(api.ResourceNotFound, "This deployment gives no access to the storage account %s.", name)
}

// Tables implements auth.Azure.
func (s *Storage) Tables(ctx context.Context, name, after string) (names []string, next string, err error) {
	a, err := s.account(name)
	if err != nil {
		return nil, "", err
	}
	q := url.Values{"$top": {fmt.Sprint(page)}}
	if after != "" {
		q.Set("NextTableName", after)
	}
	text, header, err := s.do(ctx, a, request{table: true, method: http.MethodGet, path: "/Tables", query: q})
	if err != nil {
		return nil, "", fmt.Errorf("auth: azure: list the tables of storage account %s: %w", name, err)
	}
	var answer struct {
		Value []struct{ TableName string } `json:"value"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, "", fmt.Errorf("auth: azure: list the tables of storage account %s: the answer is not the JSON that was expected: %w", name, err)
	}
	for _, t := range answer.Value {
		names = append(names, t.TableName)
	}
	return names, header.Get("x-ms-continuation-NextTableName"), nil
}

// Containers implements auth.Azure.
func (s *Storage) Containers(ctx context.Context, name, after string) (names []string, next string, err error) {
	a, err := s.account(name)
	if err != nil {
		return nil, "", err
	}
	q := url.Values{"comp": {"list"}, "maxresults": {fmt.Sprint(page)}}
	if after != "" {
		q.Set("marker", after)
	}
	text, _, err := s.do(ctx, a, request{method: http.MethodGet, path: "/", query: q})
	if err != nil {
		return nil, "", fmt.Errorf("auth: azure: list the containers of storage account %s: %w", name, err)
	}
	var answer struct {
		Names []string `xml:"Containers>Container>Name"`
		Next  string   `xml:"NextMarker"`
	}
	if err := xml.Unmarshal(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), &answer); err != nil {
		return nil, "", fmt.Errorf("auth: azure: list the containers of storage account %s: the answer is not the XML that was expected: %w", name, err)
	}
	return answer.Names, answer.Next, nil
}

// TableSAS implements auth.Azure.
func (s *Storage) TableSAS(ctx context.Context, name, table string, write bool) (t auth.Token, err error) {
	a, err := s.account(name)
	if err != nil {
		return t, err
	}
	if write {
		body, err := json.Marshal(map[string]string{"TableName": table})
		if err != nil {
			return t, err
		}
		if err := s.ensure(ctx, a, "table "+table, "TableAlreadyExists", "TableBeingDeleted", request{table: true, method: http.MethodPost, path: "/Tables", body: body}); err != nil {
			return t, err
		}
	}
	return a.tableSAS(table, write, time.Now()), nil
}

// ContainerSAS implements auth.Azure.
func (s *Storage) ContainerSAS(ctx context.Context, name, container string, write bool) (t auth.Token, err error) {
	a, err := s.account(name)
	if err != nil {
		return t, err
	}
	if write {
		if err := s.ensure(ctx, a, "container "+container, "ContainerAlreadyExists", "ContainerBeingDeleted",
			request{method: http.MethodPut, path: "/" + container, query: url.Values{"restype": {"container"}}}); err != nil {
			return t, err
		}
	}
	return a.containerSAS(container, write, time.Now()), nil
}

// ensure creates what does not exist.
func (s *Storage) ensure(ctx context.Context, a *account, what, exists, ending string, r request) error {
	key := a.name + " " + what
	if s.exists(key) {
		return nil
	}
	_, _, err := s.do(ctx, a, r)
	switch code := codeOf(err); {
	case err == nil || code == exists:
		s.found(key)
		return nil
	case code == ending:
		return api.Errorf(api.RequestConflict, "The %s of the storage account %s is being deleted, which Azure takes a while for. Try again in a minute.", what, a.name)
	case code == "InvalidResourceName" || code == "OutOfRangeInput":
		return api.Errorf(api.InputError, "Azure refuses the name of %s.", what)
	}
	return fmt.Errorf("auth: azure: create %s in storage account %s: %w", what, a.name, err)
}

func (s *Storage) exists(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.known[key]
	return ok && time.Since(at) < existsFor
}

func (s *Storage) found(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) >= maxKnown {
		clear(s.known)
	}
	s.known[key] = time.Now()
}
