package azure

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/api"
)

const (
	name = "fleetstore"
	key  = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZg=="
)

// storage imitates a storage account: it checks signatures and keeps names.
type storage struct {
	testing.TB
	mu         sync.Mutex
	tables     []string
	containers []string
	ending     []string // being deleted
	busy       int      // requests that will fail
	requests   []string
}

func (s *storage) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	s.requests = append(s.requests, r.Method+" "+r.URL.Host+r.URL.Path)
	answer := func(status int, text string, headers ...string) (*http.Response, error) {
		h := http.Header{}
		for i := 0; i < len(headers); i += 2 {
			h.Set(headers[i], headers[i+1])
		}
		return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
	}
	table := r.URL.Host == name+".table.core.windows.net"
	if r.Header.Get("Authorization") != "SharedKey "+name+":"+sharedKey(r, body, table) {
		return answer(403, "<?xml version=\"1.0\"?><Error><Code>AuthenticationFailed</Code><Message>the signature is wrong</Message></Error>")
	}
	if s.busy > 0 {
		s.busy--
		return answer(503, "\ufeff<?xml version=\"1.0\"?><Error><Code>ServerBusy</Code><Message>busy</Message></Error>")
	}
	q := r.URL.Query()
	switch r.Method + " " + r.URL.Path {
	case "GET /Tables":
		var list []string
		for _, t := range page3(s.tables, q.Get("NextTableName")) {
			list = append(list, fmt.Sprintf(`{"TableName":%q}`, t))
		}
		var next []string
		if i := slices.Index(s.tables, q.Get("NextTableName")); max(i, 0)+3 < len(s.tables) {
			next = []string{"x-ms-continuation-NextTableName", s.tables[max(i, 0)+3]}
		}
		return answer(200, `{"value":[`+strings.Join(list, ",")+`]}`, next...)
	case "POST /Tables":
		var x struct{ TableName string }
		if err := json.Unmarshal(body, &x); err != nil {
			return answer(400, "")
		}
		switch {
		case slices.Contains(s.ending, x.TableName):
			return answer(409, `{"odata.error":{"code":"TableBeingDeleted","message":{"lang":"en-US","value":"wait"}}}`)
		case slices.Contains(s.tables, x.TableName):
			return answer(409, `{"odata.error":{"code":"TableAlreadyExists","message":{"lang":"en-US","value":"exists"}}}`)
		}
		s.tables = append(s.tables, x.TableName)
		return answer(204, "")
	case "GET /":
		var list, next string
		for _, c := range page3(s.containers, q.Get("marker")) {
			list += "<Container><Name>" + c + "</Name><Properties/></Container>"
		}
		if i := slices.Index(s.containers, q.Get("marker")); max(i, 0)+3 < len(s.containers) {
			next = s.containers[max(i, 0)+3]
		}
		return answer(200, "\ufeff<?xml version=\"1.0\"?><EnumerationResults><Containers>"+list+"</Containers><NextMarker>"+next+"</NextMarker></EnumerationResults>")
	}
	if c := strings.TrimPrefix(r.URL.Path, "/"); r.Method == "PUT" && q.Get("restype") == "container" {
		if slices.Contains(s.containers, c) {
			return answer(409, "", "x-ms-error-code", "ContainerAlreadyExists")
		}
		s.containers = append(s.containers, c)
		return answer(201, "")
	}
	return answer(404, "")
}

// page3 is a page of three names from one on.
func page3(names []string, from string) []string {
	i := max(slices.Index(names, from), 0)
	return names[i:min(i+3, len(names))]
}

// sharedKey is what Azure's documentation says of signing, done from the request
// as it arrives.
func sharedKey(r *http.Request, body []byte, table bool) string {
	k, _ := base64.StdEncoding.DecodeString(key)
	mac := hmac.New(sha256.New, k)
	resource := "/" + name + r.URL.EscapedPath()
	if table {
		fmt.Fprintf(mac, "%s\n%s\n%s\n%s\n%s", r.Method, r.Header.Get("Content-MD5"), r.Header.Get("Content-Type"), r.Header.Get("x-ms-date"), resource)
		return base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	length := ""
	if len(body) > 0 {
		length = fmt.Sprint(len(body))
	}
	h := r.Header.Get
	fmt.Fprintf(mac, "%s\n%s\n%s\n%s\n%s\n%s\n%s\n%s\n%s\n%s\n%s\n%s\n", r.Method, h("Content-Encoding"), h("Content-Language"), length, h("Content-MD5"),
		h("Content-Type"), h("Date"), h("If-Modified-Since"), h("If-Match"), h("If-None-Match"), h("If-Unmodified-Since"), h("Range"))
	var lines []string
	for n, v := range r.Header {
		if n = strings.ToLower(n); strings.HasPrefix(n, "x-ms-") {
			lines = append(lines, n+":"+v[0]+"\n")
		}
	}
	slices.Sort(lines)
	fmt.Fprint(mac, strings.Join(lines, ""), resource)
	lines = nil
	for n, v := range r.URL.Query() {
		lines = append(lines, "\n"+n+":"+strings.Join(v, ","))
	}
	slices.Sort(lines)
	fmt.Fprint(mac, strings.Join(lines, ""))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func open(t *testing.T, s *storage) *Storage {
	t.Helper()
	st, err := New(Config{Accounts: map[string]Account{name: {Key: key}}, Transport: s})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// The signatures are those that an emulator of Azure has accepted, for a time
// of their own.
func TestSignatures(t *testing.T) {
	s := open(t, &storage{TB: t})
	a := s.accounts[name]
	now := time.Date(2030, 1, 2, 3, 4, 5, 678e6, time.UTC)
	const times = "se=2030-01-02T03%3A29%3A05Z&sig="
	const rest = "&st=2030-01-02T02%3A49%3A05Z&sv=2020-12-06"
	for want, got := range map[string]string{
		times + "dW6yVjg7EQqOT%2FqHxKev%2Fk%2F%2FrOJ%2FzR2aioamvXkWCZE%3D&sp=raud&spr=https" + rest + "&tn=Builds": a.tableSAS("Builds", true, now).Text,
		times + "%2BoFzJRxqb6dwOFzibpO4zU9lcHNECItTWG6F2%2BVGGcE%3D&sp=r&spr=https" + rest + "&tn=Builds":          a.tableSAS("Builds", false, now).Text,
		times + "ZF02N2JpHbOv9XzF3tLbDx2qr8FENiRpm6b2QbMh1wI%3D&sp=racwdl&spr=https&sr=c" + rest:                   a.containerSAS("logs", true, now).Text,
		times + "TmyuBWb%2FKG9kWq9Kto5po2tNFsqR6xVaFjr%2FIaf1Nw0%3D&sp=rl&spr=https&sr=c" + rest:                   a.containerSAS("logs", false, now).Text,
	} {
		if got != want {
			t.Errorf("signed\n %s, want\n %s", got, want)
		}
	}
	if e := a.tableSAS("Builds", true, now).Expires; !e.Equal(time.Date(2030, 1, 2, 3, 29, 5, 0, time.UTC)) {
		t.Errorf("it ends at %v", e)
	}
}

func TestListings(t *testing.T) {
	s := &storage{TB: t, tables: []string{"A1", "B2", "C3", "D4"}, containers: []string{"a", "b", "c", "d", "e", "f", "g"}, busy: 1}
	synctest.Test(t, func(t *testing.T) {
		st := open(t, s)
		all := func(list func(string) ([]string, string, error)) (names []string) {
			for after := ""; ; {
				some, next, err := list(after)
				if err != nil {
					t.Fatal(err)
				}
				if names = append(names, some...); next == "" {
					return names
				}
				after = next
			}
		}
		if got := all(func(after string) ([]string, string, error) { return st.Tables(t.Context(), name, after) }); !slices.Equal(got, s.tables) {
			t.Errorf("tables %v", got)
		}
		if got := all(func(after string) ([]string, string, error) { return st.Containers(t.Context(), name, after) }); !slices.Equal(got, s.containers) {
			t.Errorf("containers %v", got)
		}
		if _, _, err := st.Tables(t.Context(), "other", ""); codeOfAPI(err) != api.ResourceNotFound {
			t.Errorf("another account: %v", err)
		}
		s.busy = 3
		if _, _, err := st.Containers(t.Context(), name, ""); err == nil || !strings.Contains(err.Error(), "ServerBusy") {
			t.Errorf("Azure busy for long: %v", err)
		}
	})
}

func codeOfAPI(err error) api.Code {
	if e, ok := err.(*api.Error); ok {
		return e.Code
	}
	return ""
}

func TestWhatIsWrittenToIsCreated(t *testing.T) {
	s := &storage{TB: t, tables: []string{"Old"}, ending: []string{"Ending"}}
	synctest.Test(t, func(t *testing.T) {
		st := open(t, s)
		if _, err := st.TableSAS(t.Context(), name, "New", false); err != nil || len(s.requests) > 0 {
			t.Errorf("to read: %v, asked for %v", err, s.requests)
		}
		for range 3 {
			for _, table := range []string{"New", "Old"} {
				if x, err := st.TableSAS(t.Context(), name, table, true); err != nil || !strings.Contains(x.Text, "sp=raud") {
					t.Errorf("to write: %v, %v", x.Text, err)
				}
			}
			if _, err := st.ContainerSAS(t.Context(), name, "logs", true); err != nil {
				t.Error(err)
			}
		}
		if len(s.requests) != 3 || !slices.Contains(s.tables, "New") || !slices.Contains(s.containers, "logs") {
			t.Errorf("asked for %v; there are %v and %v", s.requests, s.tables, s.containers)
		}
		time.Sleep(existsFor)
		s.containers = nil
		if _, err := st.ContainerSAS(t.Context(), name, "logs", true); err != nil || !slices.Contains(s.containers, "logs") {
			t.Errorf("a container that was deleted is not created again: %v", err)
		}
		if _, err := st.TableSAS(t.Context(), name, "Ending", true); codeOfAPI(err) != api.RequestConflict {
			t.Errorf("a table that is being deleted: %v", err)
		}
	})
}

func TestKeysAreNotShown(t *testing.T) {
	c := Config{Accounts: map[string]Account{name: {Key: key}}}
	st := open(t, &storage{TB: t})
	wrong := Config{Accounts: map[string]Account{name: {Key: strings.ToLower(key)}}, Transport: &storage{TB: t}}
	other, err := New(wrong)
	if err != nil {
		t.Fatal(err)
	}
	_, _, refused := other.Tables(t.Context(), name, "")
	if refused == nil {
		t.Error("a wrong key works")
	}
	_, malformed := New(Config{Accounts: map[string]Account{name: {Key: "!" + key}}})
	raw, _ := base64.StdEncoding.DecodeString(key)
	for _, text := range []string{
		fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c), fmt.Sprint(c.Accounts[name].LogValue()),
		fmt.Sprintf("%+v %#v", st.accounts[name], st.accounts[name]), fmt.Sprint(refused), fmt.Sprint(malformed),
	} {
		if strings.Contains(text, key[:20]) || strings.Contains(text, strings.ToLower(key)[:20]) || bytes.Contains([]byte(text), raw[:20]) {
			t.Errorf("shows the key: %s", text)
		}
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	for says, a := range map[string]map[string]Account{
		"cannot be a storage account": {"Fleet-Store": {Key: key}},
		"is not base64":               {name: {Key: "short"}},
		"blobEndpoint":                {name: {Key: key, BlobEndpoint: "ftp://x"}},
		"tableEndpoint":               {name: {Key: key, TableEndpoint: "https://u:p@x"}},
	} {
		if _, err := New(Config{Accounts: a}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v; want one saying %q", err, says)
		}
	}
}
