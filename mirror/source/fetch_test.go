package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/mirror/source/faulty"
)

// world is an origin and a client of it, in a bubble.
type world struct {
	*testing.T
	*faulty.Origin
	*Client
}

func inWorld(t *testing.T, c Config, story func(w world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o := faulty.New(1)
		n := faulty.Listen(o)
		c.Dial = n.Dial
		c.Allow = append(c.Allow, "http://origin.example/pub/")
		client, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		defer client.Close()
		story(world{t, o, client})
	})
}

func parse(t *testing.T, raw string) URL {
	t.Helper()
	u, err := Canonical(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// at is the URL of an object.
func (w world) at(path string) URL { return parse(w.T, "http://origin.example"+path) }

// whole fetches an object that nobody has looked at.
func (w world) whole(path string) (sum string, n int, err error) {
	b, _, err := w.Get(w.Context(), w.at(path), 0, -1, Unknown)
	if err != nil {
		return "", 0, err
	}
	defer b.Close()
	h := sha256.New()
	m, err := io.Copy(h, b)
	return hex.EncodeToString(h.Sum(nil)), int(m), err
}

func TestStat(t *testing.T) {
	usual := Info{Size: 1000, ETag: "*", ContentType: "text/plain", Ranges: true}
	with := func(change func(*Info)) Info { i := usual; change(&i); return i }
	for name, c := range map[string]struct {
		object faulty.Object
		want   Info
		gets   int
	}{
		"usual":    {faulty.Object{}, usual, 0},
		"no HEAD":  {faulty.Object{Always: []faulty.Fault{faulty.NoHead}}, usual, 1},
		"no range": {faulty.Object{Always: []faulty.Fault{faulty.NoRanges}}, with(func(i *Info) { i.Ranges = false }), 0},
		"neither":  {faulty.Object{Always: []faulty.Fault{faulty.NoRanges, faulty.NoHead}}, with(func(i *Info) { i.Ranges = false }), 1},
		"no length": {faulty.Object{Always: []faulty.Fault{faulty.Chunked, faulty.NoRanges}},
			with(func(i *Info) { i.Ranges, i.Size = false, -1 }), 0},
		"no type":        {faulty.Object{Always: []faulty.Fault{faulty.NoType}}, with(func(i *Info) { i.ContentType = "application/octet-stream" }), 0},
		"a type too odd": {faulty.Object{ContentType: strings.Repeat("x", 2000)}, with(func(i *Info) { i.ContentType = "application/octet-stream" }), 0},
		"weak ETag":      {faulty.Object{WeakETag: true}, with(func(i *Info) { i.ETag = "" }), 0},
		"no ETag":        {faulty.Object{NoETag: true}, with(func(i *Info) { i.ETag = "" }), 0},
		"as it is stored": {faulty.Object{ContentEncoding: "gzip", ContentDisposition: `attachment; filename="x"`},
			with(func(i *Info) { i.ContentEncoding, i.ContentDisposition = "gzip", `attachment; filename="x"` }), 0},
		"a name too odd": {faulty.Object{ContentDisposition: "attachment; filename=ü"}, usual, 0},
		"empty":          {faulty.Object{Size: -1}, with(func(i *Info) { i.Size = 0 }), 0},
		"empty, no HEAD": {faulty.Object{Size: -1, Always: []faulty.Fault{faulty.NoHead}},
			with(func(i *Info) { i.Size, i.Ranges = 0, false }), 1},
		"moved": {faulty.Object{Redirect: "/pub/there"}, usual, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, Config{}, func(w world) {
				c.object.Size = max(0, c.object.Size+1000*min(1, c.object.Size+1))
				w.Put("/pub/there", faulty.Object{Size: 1000})
				w.Put("/pub/a", c.object)
				i, err := w.Stat(w.Context(), w.at("/pub/a"))
				if err != nil {
					t.Fatal(err)
				}
				at := "/pub/a"
				if c.object.Redirect != "" {
					at = c.object.Redirect
				}
				want := c.want
				want.URL, want.Modified = w.at(at), i.Modified
				if want.ETag != "" {
					want.ETag = w.ETag(at)
				}
				if i != want {
					t.Errorf("%+v, want %+v", i, want)
				}
				if i.Modified.IsZero() {
					t.Error("it does not say when it was modified")
				}
				if n := w.Origin.Count("/pub/a").Gets; n != c.gets {
					t.Errorf("%d GETs", n)
				}
			})
		})
	}
}

func TestWholeAndInParts(t *testing.T) {
	for _, size := range []int64{0, 1, 999, 1 << 20} {
		inWorld(t, Config{}, func(w world) {
			w.Put("/pub/a", faulty.Object{Size: size})
			sum, n, err := w.whole("/pub/a")
			if err != nil || n != int(size) || sum != w.SHA256("/pub/a") {
				t.Fatalf("%d bytes, %v", n, err)
			}
			want, err := w.Stat(w.Context(), w.at("/pub/a"))
			if err != nil || !want.Parts() {
				t.Fatalf("%+v, %v", want, err)
			}
			h := sha256.New()
			part := max(1, size/3)
			for at := int64(0); at < size; at += part {
				length := min(part, size-at)
				if at+length == size {
					length = -1 // the rest
				}
				b, i, err := w.Get(w.Context(), w.at("/pub/a"), at, length, want)
				if err != nil || i.Size != size {
					t.Fatalf("at %d: %+v, %v", at, i, err)
				}
				if _, err := io.Copy(h, b); err != nil {
					t.Fatal(err)
				}
				b.Close()
			}
			if hex.EncodeToString(h.Sum(nil)) != w.SHA256("/pub/a") {
				t.Error("the parts are not the whole")
			}
			for _, r := range [][2]int64{{-1, 5}, {0, 0}, {size, 1}, {max(size, 1), -1}, {0, size + 1}, {1 << 62, 1 << 62}} {
				if b, _, err := w.Get(w.Context(), w.at("/pub/a"), r[0], r[1], want); err == nil {
					b.Close()
					t.Errorf("there were %d bytes at %d of %d", r[1], r[0], size)
				}
			}
		})
	}
}

func TestFaultsOfAnOrigin(t *testing.T) {
	for _, c := range []struct {
		fault     faulty.Fault
		want      error // nil: a BadStatus, or a broken connection
		temporary bool
		status    int
	}{
		{faulty.Truncate, io.ErrUnexpectedEOF, true, 0},
		{faulty.Reset, io.ErrUnexpectedEOF, true, 0}, // through a pipe
		{faulty.LongLength, ErrChanged, false, 0},
		{faulty.ShortLength, ErrChanged, false, 0},
		{faulty.Stall, errSilent, true, 0},
		{faulty.Trickle, errSlow, true, 0},
		{faulty.Mute, errSilent, true, 0},
		{faulty.InternalError, nil, true, 500},
		{faulty.Unavailable, nil, true, 503},
		{faulty.TooMany, nil, true, 429},
		{faulty.Missing, nil, false, 404},
		{faulty.Empty, nil, false, 204},
		{faulty.RedirectLoop, ErrTooManyRedirects, false, 0},
		{faulty.RedirectToMetadata, ErrNotAllowed, false, 0},
		{faulty.Changed, ErrChanged, false, 0},
	} {
		for _, part := range []bool{false, true} {
			t.Run(fmt.Sprint(c.fault, " ", part), func(t *testing.T) {
				inWorld(t, Config{}, func(w world) {
					w.Put("/pub/a", faulty.Object{Size: 100_000, Plan: func(string, int) faulty.Fault { return c.fault }})
					want, err := w.Stat(w.Context(), w.at("/pub/a"))
					if err != nil {
						t.Fatal(err)
					}
					offset, length := int64(0), int64(-1)
					if part {
						offset, length = 1000, 90_000
					}
					start := time.Now()
					b, _, err := w.Get(w.Context(), parse(t, "http://origin.example/pub/a?signature=hunter2"), offset, length, want)
					if err == nil {
						defer b.Close()
						_, err = io.Copy(io.Discard, b)
						if _, again := b.Read(make([]byte, 1)); again != err {
							t.Errorf("it ended with %v, and then with %v", err, again)
						}
					}
					if part && (c.fault == faulty.LongLength || c.fault == faulty.ShortLength) {
						c.want, c.temporary = errGarbled, true // the Content-Range says otherwise
					}
					if err == nil || c.want != nil && !errors.Is(err, c.want) {
						t.Fatalf("the error is %v", err)
					}
					if errors.Is(err, ErrTemporary) != c.temporary {
						t.Errorf("temporary is not %v: %v", c.temporary, err)
					}
					var bad *BadStatus
					if errors.As(err, &bad); bad == nil && c.status != 0 || bad != nil && (bad.Code != c.status || bad.URL != "http://origin.example/pub/a?...") {
						t.Errorf("the status is %+v", bad)
					}
					if c.fault == faulty.TooMany && RetryAfter(err) != 2*time.Second {
						t.Errorf("to be tried again in %v", RetryAfter(err))
					}
					if s := err.Error(); !strings.Contains(s, "http://origin.example/pub/a") || strings.Contains(s, "hunter2") {
						t.Errorf("the error has no URL or a secret: %s", s)
					}
					if d := time.Since(start); d > 61*time.Second {
						t.Errorf("it took %v", d)
					}
				})
			})
		}
	}
}

func TestPartsOfWhatCannotBeParted(t *testing.T) {
	inWorld(t, Config{}, func(w world) {
		w.Put("/pub/whole", faulty.Object{Size: 1000, Always: []faulty.Fault{faulty.NoRanges}})
		w.Put("/pub/weak", faulty.Object{Size: 1000, WeakETag: true})
		w.Put("/pub/off", faulty.Object{Size: 1000, Plan: faulty.Script(faulty.WrongRange)})
		for path, wanted := range map[string]error{"/pub/whole": ErrNoRanges, "/pub/weak": ErrNoRanges, "/pub/off": ErrChanged} {
			want, err := w.Stat(w.Context(), w.at(path))
			if err != nil {
				t.Fatal(err)
			}
			if path != "/pub/off" && want.Parts() {
				t.Errorf("%s has parts: %+v", path, want)
			}
			_, _, err = w.Get(w.Context(), w.at(path), 10, 10, want)
			if !errors.Is(err, wanted) || errors.Is(err, ErrTemporary) {
				t.Errorf("%s: %v", path, err)
			}
		}
		// What has no ETag is told by its time.
		want, err := w.Stat(w.Context(), w.at("/pub/weak"))
		if err != nil {
			t.Fatal(err)
		}
		w.Change("/pub/weak")
		if _, _, err := w.Get(w.Context(), w.at("/pub/weak"), 0, -1, want); !errors.Is(err, ErrChanged) {
			t.Errorf("of another time: %v", err)
		}
	})
}

func TestWrongBytesAreForTheHash(t *testing.T) {
	inWorld(t, Config{}, func(w world) {
		w.Put("/pub/a", faulty.Object{Size: 1000, Plan: faulty.Script(faulty.WrongBytes)})
		if sum, n, err := w.whole("/pub/a"); sum == w.SHA256("/pub/a") || n != 1000 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		if sum, _, err := w.whole("/pub/a"); sum != w.SHA256("/pub/a") || err != nil {
			t.Error(err)
		}
		if c := w.Origin.Count("/pub/a"); c != (faulty.Count{Gets: 2, Bytes: 2000}) {
			t.Errorf("%+v", c)
		}
		// As is a length that is wrong, where nobody knows a better one.
		w.Put("/pub/b", faulty.Object{Size: 1000, Plan: faulty.Script(faulty.ShortLength, faulty.LongLength)})
		if sum, n, err := w.whole("/pub/b"); sum == w.SHA256("/pub/b") || n != 990 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		if _, n, err := w.whole("/pub/b"); n != 1000 || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}

func TestNoLength(t *testing.T) {
	inWorld(t, Config{MaxSize: 5000}, func(w world) {
		chunked := []faulty.Fault{faulty.Chunked}
		w.Put("/pub/a", faulty.Object{Size: 5000, Always: chunked})
		w.Put("/pub/cut", faulty.Object{Size: 5000, Always: chunked, Plan: faulty.Script(faulty.Truncate)})
		w.Put("/pub/large", faulty.Object{Size: 50_000, Always: chunked})
		w.Put("/pub/larger", faulty.Object{Size: 50_000})
		if sum, n, err := w.whole("/pub/a"); sum != w.SHA256("/pub/a") || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		if _, n, err := w.whole("/pub/cut"); !errors.Is(err, ErrTemporary) {
			t.Errorf("%d bytes, %v", n, err)
		}
		if _, _, err := w.whole("/pub/large"); !errors.Is(err, ErrTooLarge) || errors.Is(err, ErrTemporary) {
			t.Error(err)
		}
		if _, err := w.Stat(w.Context(), w.at("/pub/larger")); !errors.Is(err, ErrTooLarge) {
			t.Error(err)
		}
	})
}

func TestRedirectsAreFollowedAndChecked(t *testing.T) {
	inWorld(t, Config{Allow: []string{"http://mirror.example/pub/", "https://safe.example/"}}, func(w world) {
		w.Put("/pub/0", faulty.Object{Size: 10})
		for i := range 6 {
			w.Put(fmt.Sprint("/pub/", i+1), faulty.Object{Redirect: fmt.Sprint("http://mirror.example/pub/", i)})
		}
		b, i, err := w.Get(w.Context(), w.at("/pub/5"), 0, -1, Unknown)
		if err != nil || i.URL.String() != "http://mirror.example/pub/0" {
			t.Fatalf("%+v, %v", i, err)
		}
		b.Close()
		if _, _, err := w.whole("/pub/6"); !errors.Is(err, ErrTooManyRedirects) {
			t.Error(err)
		}
		for to, why := range map[string]string{
			"http://origin.example/private":               "other paths",
			"http://unknown.example/pub/":                 "no rule is for its host",
			"http://169.254.169.254/latest/meta-data/":    "no rule is for its host",
			"http://user:hunter2@origin.example/pub/0":    "user name",
			"http://origin.example/pub/%2e%2e/private":    `".."`,
			"gopher://origin.example/pub/0":               "only http",
			"https://origin.example:80/pub/0?sig=hunter2": "another port",
		} {
			w.Put("/pub/bad", faulty.Object{Redirect: to})
			if _, _, err := w.whole("/pub/bad"); !errors.Is(err, ErrNotAllowed) || !strings.Contains(err.Error(), why) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("to %s: %v", to, err)
			}
		}
		// /private is not there; a 404 would tell that it was asked.
		if _, _, err := w.whole("/private"); !errors.Is(err, ErrNotAllowed) {
			t.Error(err)
		}
	})
}

// What is slow is the reader, not the origin.
func TestASlowReaderIsWaitedFor(t *testing.T) {
	inWorld(t, Config{}, func(w world) {
		w.Put("/pub/a", faulty.Object{Size: 200_000})
		b, _, err := w.Get(w.Context(), w.at("/pub/a"), 0, -1, Unknown)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		for n := 0; ; {
			time.Sleep(5 * time.Minute)
			m, err := io.ReadFull(b, make([]byte, 10_000))
			if n += m; err == io.EOF {
				if n != 200_000 {
					t.Errorf("%d bytes", n)
				}
				return
			} else if err != nil {
				t.Fatalf("after %d bytes: %v", n, err)
			}
		}
	})
}

// A transfer that moves takes as long as it takes.
func TestASlowOriginIsWaitedFor(t *testing.T) {
	inWorld(t, Config{MinRate: 1}, func(w world) {
		w.Every = 900 * time.Millisecond
		w.Put("/pub/a", faulty.Object{Size: 10_000, Plan: faulty.Script(faulty.Trickle)})
		start := time.Now()
		if sum, n, err := w.whole("/pub/a"); sum != w.SHA256("/pub/a") {
			t.Errorf("%d bytes, %v", n, err)
		}
		if d := time.Since(start); d < time.Hour {
			t.Errorf("it took %v", d)
		}
	})
}

func TestACallEndsWithItsContext(t *testing.T) {
	inWorld(t, Config{}, func(w world) {
		w.Put("/pub/mute", faulty.Object{Size: 10, Plan: faulty.Script(faulty.Mute)})
		w.Put("/pub/stall", faulty.Object{Size: 10, Plan: faulty.Script(faulty.Stall)})
		reason := errors.New("the lease was lost")
		for _, path := range []string{"/pub/mute", "/pub/stall"} {
			ctx, cancel := context.WithCancelCause(w.Context())
			time.AfterFunc(time.Second, func() { cancel(reason) })
			start := time.Now()
			b, _, err := w.Get(ctx, w.at(path), 0, -1, Unknown)
			if err == nil {
				defer b.Close()
				_, err = io.ReadAll(b)
			}
			if !errors.Is(err, reason) || errors.Is(err, ErrTemporary) || time.Since(start) != time.Second {
				t.Errorf("%s: after %v: %v", path, time.Since(start), err)
			}
		}
	})
}

// Whatever happens to requests, what arrives whole is what was sent.
func TestManyFaults(t *testing.T) {
	inWorld(t, Config{Stall: time.Second, RateWindow: time.Second}, func(w world) {
		w.Plan = faulty.Seeded(7, 400, faulty.Truncate, faulty.Reset, faulty.Stall, faulty.Trickle, faulty.Mute, faulty.Unavailable,
			faulty.TooMany, faulty.LongLength, faulty.ShortLength, faulty.Changed, faulty.WrongRange, faulty.Chunked, faulty.Empty)
		const part = 7000
		failed := 0
		for n := range 500 {
			path := fmt.Sprint("/pub/", n)
			w.Put(path, faulty.Object{Size: int64(n * 50)})
			for done := false; !done; {
				want, err := w.Stat(w.Context(), w.at(path))
				if err != nil {
					t.Fatal(err)
				}
				h := sha256.New()
				for at := int64(0); at < want.Size && err == nil; at += part {
					length := min(part, want.Size-at)
					var b io.ReadCloser
					if b, _, err = w.Get(w.Context(), w.at(path), at, length, want); err != nil {
						continue
					}
					_, err = io.Copy(h, b)
					b.Close()
				}
				if done = err == nil; !done {
					failed++
				} else if hex.EncodeToString(h.Sum(nil)) != w.SHA256(path) {
					t.Fatalf("%s arrived, and is something else", path)
				}
			}
		}
		if failed < 200 {
			t.Errorf("only %d tries failed", failed)
		}
	})
}
