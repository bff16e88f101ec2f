package rabbit

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/store/storetest"
)

// Users of the broker are replaced one after another while messages are published, and
// each is deleted when the next one is in use: no message is lost, none is out of order.
func TestTheUserIsReplacedWhileMessagesArePublished(t *testing.T) {
	at, err := url.Parse(os.Getenv("TASKFLEET_TEST_RABBITMQ_MANAGEMENT"))
	if err != nil || at.Host == "" {
		t.Fatal("TASKFLEET_TEST_RABBITMQ_MANAGEMENT is not set: run `make test`, which starts a RabbitMQ for the tests")
	}
	manage := func(verb, path, body string) {
		t.Helper()
		q, err := http.NewRequest(verb, at.JoinPath("api").String()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatalf("%s %s: the broker does not answer", verb, path)
		}
		answer.Body.Close()
		if answer.StatusCode/100 != 2 {
			t.Fatalf("%s %s: %s", verb, path, answer.Status)
		}
	}
	const tasks, total, users = 7, 3000, 3
	name := func(n int) string { return fmt.Sprintf("login-%d-%d", rand.Uint64(), n) }
	u := storetest.URL(t, "sqlite")
	ns := namespace(t)
	p := publisher(t, Config{Namespace: ns, Exchanges: []string{completed}})
	if err := p.Declare(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := consume(t, queue(t, "exchange/"+ns+"/v1/task-completed", "#", nil), total)
	l := run(t, storetest.Open(t, u), p)
	published := make(chan struct{})
	go func() {
		defer close(published)
		l.publish(t, 0, total, tasks)
	}()
	if err := p.Login(t.Context(), "nobody", "pass-word"); err == nil || strings.Contains(err.Error(), "pass-word") {
		t.Errorf("a user that is not there: %v", err)
	}
	before := ""
	for n := range users {
		user, password := name(n), fmt.Sprintf("p/@:%%%d", rand.Uint64())
		manage("PUT", "/users/"+user, fmt.Sprintf(`{"password":%q,"tags":""}`, password))
		if err := p.Login(t.Context(), user, password); err == nil {
			t.Error("a user without permissions is taken")
		}
		manage("PUT", "/permissions/%2f/"+user, fmt.Sprintf(`{"configure":"^exchange/%s/","write":"^exchange/%s/","read":"^$"}`, ns, ns))
		if err := p.Login(t.Context(), user, password); err != nil {
			t.Fatal(err)
		}
		if before != "" {
			manage("DELETE", "/users/"+before, "")
		}
		before = user
		r.waitFor(t, (n+1)*total/(users+1))
	}
	<-published
	r.wait(t)
	manage("DELETE", "/users/"+before, "")
	if r.duplicates > 0 {
		t.Errorf("%d messages came twice, though no connection was lost", r.duplicates)
	}
	if at := p.at.Load().address; !strings.Contains(at, before) {
		t.Errorf("in the end it publishes as %s", at)
	}
}
