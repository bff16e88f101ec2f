package faulty

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/iotest"
)

func TestContentIsTheSameHoweverItIsRead(t *testing.T) {
	o := New(1)
	o.Put("/a", Object{Size: 1000})
	data, err := io.ReadAll(o.Content("/a"))
	if err != nil || len(data) != 1000 {
		t.Fatalf("%d bytes, %v", len(data), err)
	}
	if err := iotest.TestReader(o.Content("/a"), data); err != nil {
		t.Error(err)
	}
	part := make([]byte, 100)
	for at := range int64(900) {
		if _, err := o.Content("/a").ReadAt(part, at); err != nil || !bytes.Equal(part, data[at:at+100]) {
			t.Fatalf("at %d: %v", at, err)
		}
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != o.SHA256("/a") {
		t.Error("the hash is another")
	}

	again, other := New(1), New(2)
	sums := map[string]bool{o.SHA256("/a"): true}
	for _, x := range []*Origin{again, other} {
		x.Put("/a", Object{Size: 1000})
		x.Put("/b", Object{Size: 1000})
	}
	if !sums[again.SHA256("/a")] {
		t.Error("the same seed makes other bytes")
	}
	etag := again.ETag("/a")
	again.Change("/a")
	if again.ETag("/a") == etag {
		t.Error("a change leaves the ETag")
	}
	for _, sum := range []string{again.SHA256("/a"), again.SHA256("/b"), other.SHA256("/a")} {
		if sums[sum] {
			t.Error("what should differ does not")
		}
		sums[sum] = true
	}
}

func TestRequestsAreCounted(t *testing.T) {
	o := New(1)
	o.Put("/a", Object{Size: 1000, Plan: Script(Truncate, Unavailable)})
	s := httptest.NewServer(o)
	defer s.Close()
	get := func(method, wanted string) {
		r, err := http.NewRequestWithContext(t.Context(), method, s.URL+"/a", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Range", wanted)
		a, err := s.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, a.Body) // some are cut off
		a.Body.Close()
	}
	get("GET", "")
	get("GET", "")
	get("GET", "bytes=0-9")
	get("GET", "")
	get("HEAD", "")
	if c := o.Count("/a"); c != (Count{Heads: 1, Gets: 4, Bytes: 500 + 10 + 1000}) {
		t.Errorf("%+v", c)
	}
	if c := o.Count("/b"); c != (Count{}) {
		t.Errorf("%+v", c)
	}
}

func TestAPlanIsItsSeed(t *testing.T) {
	count := func(seed uint64) (faults int, all string) {
		p := Seeded(seed, 300, Truncate, Stall)
		for n := range 1000 {
			f := p("/a", n)
			if all += string(f) + ","; f != None {
				faults++
			}
		}
		return faults, all
	}
	n, one := count(1)
	if n < 200 || n > 400 {
		t.Errorf("%d of 1000 requests have a fault", n)
	}
	if _, again := count(1); again != one {
		t.Error("the same seed plans other faults")
	}
	if _, other := count(2); other == one {
		t.Error("another seed plans the same")
	}
}
