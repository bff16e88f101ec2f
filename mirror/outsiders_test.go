package mirror

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/mirror/source"
	"github.com/taskfleet/taskfleet/mirror/source/faulty"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
)

// Anybody may follow events, and so they have none of the addresses and names that
// an error has.
func TestEventsTellErrorsInAWord(t *testing.T) {
	get := func(err error) error {
		return &source.Error{Method: "GET", URL: "https://rebind.test/x", Err: err}
	}
	resolver := &net.DNSError{Err: "server misbehaving", Name: "rebind.test", Server: "10.255.255.53:53"}
	for _, c := range []struct {
		err  error
		want string
	}{
		{get(&source.BadStatus{Code: 404}), "BadHTTPStatus 404"},
		{get(fmt.Errorf("10.1.2.3: %w", source.ErrForbiddenAddress)), "ForbiddenAddress"},
		{get(fmt.Errorf("http://10.1.2.3/: %w", source.ErrNotAllowed)), "InvalidUrl"},
		{get(fmt.Errorf("lookup: %w", resolver)), "Origin"},
		{toBucket(errors.New("dial tcp 10.1.2.3:9000: connection refused")), "Bucket"},
		{damaged("it has 3 bytes instead of 4"), "Origin"},
		{errors.New("InvalidUrlish 10.1.2.3: x"), "Origin"},
	} {
		var f *fault
		if errors.As(c.err, &f) { // as it is written down
			c.err = f.err
		}
		failed := &Copy{Region: near, Origin: Origin{URL: "https://rebind.test/x?signature=secret"}, State: Failed, Error: errorText(c.err)}
		m := failed.outgoing(&copyFailed).Payload.(message)
		if text := fmt.Sprintf("%+v", m); m.Error != c.want || strings.Contains(text, "10.") || strings.Contains(text, "secret") {
			t.Errorf("%v is told as %s, want %q", c.err, text, c.want)
		}
	}
	gone := &Copy{Region: near, State: Leaving, Error: objectGone.detail}
	if m := gone.outgoing(&copyGone).Payload.(message); m.Error != objectGone.detail {
		t.Errorf("of one that was lost: %+v", m)
	}
}

// Whoever reads a copy sees its metadata, but not the query of what it is of; the
// index can be made anew all the same.
func TestReadersDoNotSeeTheQuery(t *testing.T) {
	onSQLite(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		w.remote("/pub/a", faulty.Object{Size: 500})
		plain, signed := Origin{URL: w.originURL + "/pub/a"}, Origin{URL: w.originURL + "/pub/a?X-Amz-Signature=topsecret"}
		w.wanting(wish(far, plain), wish(far, signed))
		w.settle(w.Mirror)
		for _, o := range []Origin{plain, signed} {
			body, header := w.served(far, o)
			if said := header.Get("X-Amz-Meta-" + metaCopy); len(body) != 500 || said == "" || strings.Contains(fmt.Sprint(header), "topsecret") {
				t.Errorf("%s is served with %v", o, header)
			} else if shown := strings.Contains(said, "origin="+w.originURL); shown != (o == plain) {
				t.Errorf("of %s readers see %s", o, said)
			}
			c := w.copyOf(far, o)
			object, err := w.region(far).Bucket.Stat(t.Context(), c.key())
			if err != nil {
				t.Fatal(err)
			}
			found, err := fromObject(object, func() (string, error) { return w.region(far).readText(t.Context(), c.originKey()) })
			if err != nil || found.Origin != o {
				t.Errorf("the object is told to be of %v: %v", found, err)
			}
		}
		w.noLitter()
	})
	// Copies from before say it in their metadata.
	o := Origin{URL: "https://example.com/a?v=1"}
	c := &Copy{ID: o.ID(), Origin: o, Size: 3, Token: slugid.New()}
	object := blob.Object{Key: c.key(), Size: 3, ETag: "e"}
	object.Metadata = packMeta(map[string]string{metaOrigin: escapeMeta(o.URL), metaSize: "3"})
	if found, err := fromObject(object, nil); err != nil || found.Origin != o {
		t.Errorf("one from before: %v, %v", found, err)
	}
}
