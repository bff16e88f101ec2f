package hawk

import (
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

//go:embed testdata/vectors.json
var vectorsJSON []byte

type vector struct {
	Key, Method, URL, Content, ContentType, Header, Bewit string
}

func vectors(t testing.TB) []vector {
	var list []vector
	if err := json.Unmarshal(vectorsJSON, &list); err != nil || len(list) == 0 {
		t.Fatal(err)
	}
	return list
}

func (v vector) request(t testing.TB) Request {
	u, err := url.Parse(v.URL)
	if err != nil {
		t.Fatal(err)
	}
	_, resource, _ := strings.Cut(v.URL[len("https://"):], "/")
	port := map[string]int{"http": 80, "https": 443}[u.Scheme]
	if p := u.Port(); p != "" {
		if port, err = strconv.Atoi(p); err != nil {
			t.Fatal(err)
		}
	}
	return Request{v.Method, "/" + resource, u.Hostname(), port}
}

// Another implementation, mohawk, agrees on every MAC and payload hash.
func TestVectorsOfAnotherImplementation(t *testing.T) {
	for _, v := range vectors(t) {
		h, err := ParseHeader(v.Header)
		if err != nil {
			t.Fatalf("%s: %v", v.Header, err)
		}
		r := v.request(t)
		if !h.Verify(r, v.Key) {
			t.Errorf("%s %s: the MAC does not verify", v.Method, v.URL)
		}
		if !h.VerifyPayload(v.ContentType, []byte(v.Content)) {
			t.Errorf("%s %s: hash %s, want %s", v.Method, v.URL, PayloadHash(v.ContentType, []byte(v.Content)), h.Hash)
		}
		again := h
		again.Sign(r, v.Key)
		if again != h {
			t.Errorf("%s %s: signed %v, want %v", v.Method, v.URL, again, h)
		}
		if v.Bewit == "" {
			continue
		}
		b, err := ParseBewit(v.Bewit)
		if err != nil {
			t.Fatal(err)
		}
		if !b.Verify(r, v.Key) {
			t.Errorf("%s: the bewit does not verify", v.URL)
		}
		if got, want := b.String(), strings.TrimRight(v.Bewit, "="); got != want {
			t.Errorf("bewit written as %s, want %s", got, want)
		}
	}
}

// The specification's own example.
func TestSpecificationExample(t *testing.T) {
	h := Header{ID: "dh37fgj492je", Timestamp: 1353832234, Nonce: "j4h3g2", Ext: "some-app-ext-data"}
	h.Sign(Request{"GET", "/resource/1?b=1&a=2", "example.com", 8000}, "werxhqb98rpaxn39848xrunpaw3489ruxnpa98w4rxn")
	if got, want := h.MAC.String(), "6R4rV5iE+NPoym+WwjeHzjAGXUtLNIxmo1vpMofpLAE="; got != want {
		t.Errorf("mac = %s, want %s", got, want)
	}
}

func TestVerifyNoticesEveryChange(t *testing.T) {
	const key = "secret"
	r := Request{"GET", "/a?b=c", "tc.example.com", 443}
	h := Header{ID: "id", Timestamp: 1462959000, Nonce: "n", Hash: "h", Ext: "e"}
	h.Sign(r, key)
	b := Bewit{ID: "id", Expires: 1462959000, Ext: "e"}
	b.Sign(r, key)
	if !h.Verify(r, key) || !b.Verify(r, key) {
		t.Fatal("a fresh signature does not verify")
	}
	if same := (Request{"get", "/a?b=c", "TC.example.COM", 443}); !h.Verify(same, key) || !b.Verify(same, key) {
		t.Error("the case of method or host matters; it must not")
	}
	for _, other := range []Request{
		{"GET", "/a?b=d", "tc.example.com", 443}, {"GET", "/A?b=c", "tc.example.com", 443},
		{"GET", "/a?b=c", "tc.example.org", 443}, {"GET", "/a?b=c", "tc.example.com", 80},
	} {
		if h.Verify(other, key) || b.Verify(other, key) {
			t.Errorf("a signature for %v verifies for %v", r, other)
		}
	}
	if h.Verify(Request{"POST", "/a?b=c", "tc.example.com", 443}, key) {
		t.Error("the method is not covered")
	}
	if h.Verify(r, "Secret") || b.Verify(r, "Secret") {
		t.Error("another key verifies")
	}
	for name, change := range map[string]func(*Header){
		"ts": func(h *Header) { h.Timestamp++ }, "nonce": func(h *Header) { h.Nonce = "m" },
		"hash": func(h *Header) { h.Hash = "" }, "ext": func(h *Header) { h.Ext = "f" }, "mac": func(h *Header) { h.MAC[31]++ },
	} {
		changed := h
		change(&changed)
		if changed.Verify(r, key) {
			t.Errorf("%s is not covered", name)
		}
	}
	for name, change := range map[string]func(*Bewit){
		"expiry": func(b *Bewit) { b.Expires++ }, "ext": func(b *Bewit) { b.Ext = "" }, "mac": func(b *Bewit) { b.MAC[0]++ },
	} {
		changed := b
		change(&changed)
		if changed.Verify(r, key) {
			t.Errorf("the bewit's %s is not covered", name)
		}
	}
	// What is signed as one kind must not pass as the other.
	asHeader := Header{ID: b.ID, Timestamp: b.Expires, Ext: b.Ext, MAC: b.MAC}
	if asHeader.Verify(r, key) {
		t.Error("a bewit passes as a header")
	}
}

func TestPayloadHashLooksAtTheMediaTypeOnly(t *testing.T) {
	want := PayloadHash("application/json", []byte("{}"))
	for _, same := range []string{"application/json; charset=utf-8", " Application/JSON ;x=y"} {
		if PayloadHash(same, []byte("{}")) != want {
			t.Errorf("%q hashes differently", same)
		}
	}
	for _, h := range []string{PayloadHash("text/plain", []byte("{}")), PayloadHash("application/json", []byte("{}\n")), PayloadHash("", nil)} {
		if h == want {
			t.Error("type or body is not covered")
		}
	}
	if (Header{Hash: ""}).VerifyPayload("", nil) {
		t.Error("an absent hash verifies")
	}
}

func TestParseHeaderRefuses(t *testing.T) {
	const mac = "6R4rV5iE+NPoym+WwjeHzjAGXUtLNIxmo1vpMofpLAE="
	good := `Hawk id="a", ts="1", nonce="n", mac="` + mac + `"`
	for _, ok := range []string{
		good, `hawk id="a",ts="1",nonce="n",mac="` + mac + `"`, `HAWK   mac="` + mac + `" ,  ts="0", nonce="=", id="x y"`, good + "  ",
	} {
		if _, err := ParseHeader(ok); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
	for _, bad := range []string{
		"", "Hawk", "Hawk ", "Basic YTpi", "Hawkid=\"a\"", `Hawk "`, `Hawk =""`, "Hawk id", `Hawk id="`, `Hawk id="a`,
		good + ",", good + ", ", good + " x", strings.Replace(good, ", ", " ", 1), strings.Replace(good, ", ", ",, ", 1),
		good + `, id="b"`, good + `, mac="` + mac + `"`, good + `, app="x"`, good + `, dlg="x"`, good + `, ="x"`, good + `, ID="x"`,
		good + `, ext=""`, good + `, ext='x'`, good + `, ext="a\b"`, good + `, ext="a` + "\n" + `b"`, good + `, ext="a` + "\x00" + `"`, good + `, ext="é"`,
		strings.Replace(good, `ts="1"`, `ts="01"`, 1), strings.Replace(good, `ts="1"`, `ts="+1"`, 1), strings.Replace(good, `ts="1"`, `ts="-1"`, 1),
		strings.Replace(good, `ts="1"`, `ts="1e3"`, 1), strings.Replace(good, `ts="1"`, `ts="99999999999999999999"`, 1), strings.Replace(good, `ts="1"`, `ts="68719476737"`, 1),
		strings.Replace(good, mac, mac[1:], 1), strings.Replace(good, mac, "="+mac[1:], 1), strings.Replace(good, mac, mac+mac, 1),
		strings.Replace(good, `id="a", `, "", 1), strings.Replace(good, `ts="1", `, "", 1), strings.Replace(good, `nonce="n", `, "", 1),
		`Hawk id="a", ts="1", nonce="n"`,
		good + `, ext="` + strings.Repeat("x", MaxHeader) + `"`, "Hawk " + strings.Repeat(" ", MaxHeader), strings.Repeat(`Hawk id="`, 1000),
	} {
		if h, err := ParseHeader(bad); err == nil {
			t.Errorf("%.200s: parsed as %+v", bad, h)
		}
	}
}

func TestCutBewit(t *testing.T) {
	for _, c := range []struct {
		resource, rest, bewit string
		found                 bool
	}{
		{"/a", "/a", "", false},
		{"/a?", "/a?", "", false},
		{"/a?b=c&x", "/a?b=c&x", "", false},
		{"/a?notbewit=x&bewits=y", "/a?notbewit=x&bewits=y", "", false},
		{"/a&bewit=B", "/a&bewit=B", "", false},
		{"/a?bewit=B", "/a", "B", true},
		{"/a?bewit=", "/a", "", true},
		{"/a?bewit=B&", "/a", "B", true},
		{"/a?x=1&bewit=B", "/a?x=1", "B", true},
		{"/a?bewit=B&x=1", "/a?x=1", "B", true},
		{"/a?x=1&bewit=B&y=2", "/a?x=1&y=2", "B", true},
		{"/a?x=1&bewit=B&y=2&bewit=C", "/a?x=1&y=2&bewit=C", "B", true},
		{"/a?x=?bewit=B", "/a?x=?bewit=B", "", false},
	} {
		if rest, b, found := CutBewit(c.resource); rest != c.rest || b != c.bewit || found != c.found {
			t.Errorf("CutBewit(%s) = %q, %q, %v; want %q, %q, %v", c.resource, rest, b, found, c.rest, c.bewit, c.found)
		}
	}
}

func TestParseBewitRefuses(t *testing.T) {
	const mac = "6R4rV5iE+NPoym+WwjeHzjAGXUtLNIxmo1vpMofpLAE="
	for text, ok := range map[string]bool{
		`id\1\` + mac + `\`: true, `id\1\` + mac + `\ext`: true,
		`\1\` + mac + `\`: false, `id\\` + mac + `\`: false, `id\x\` + mac + `\`: false, `id\1\\`: false, `id\1\` + mac: false,
		`id\1\` + mac + `\a\b`: false, "id\n\\1\\" + mac + `\`: false, `id\1.5\` + mac + `\`: false, ``: false, `\\\`: false,
		`id\1\` + mac + `\` + strings.Repeat("x", MaxHeader): false,
	} {
		for _, enc := range []*base64.Encoding{base64.RawURLEncoding, base64.URLEncoding} {
			if _, err := ParseBewit(enc.EncodeToString([]byte(text))); (err == nil) != ok {
				t.Errorf("%.100q: %v", text, err)
			}
		}
	}
	if _, err := ParseBewit("a b"); err == nil {
		t.Error("not base64, but parsed")
	}
}

func TestFreshAndExpired(t *testing.T) {
	now := time.Unix(1462959000, 500)
	for d, want := range map[time.Duration]bool{0: true, MaxSkew: true, -MaxSkew + time.Second: true, MaxSkew + time.Second: false, -MaxSkew - time.Second: false} {
		if got := (Header{Timestamp: now.Add(d).Unix()}).Fresh(now); got != want {
			t.Errorf("a timestamp off by %s is fresh: %v", d, got)
		}
	}
	if (Bewit{Expires: now.Unix()}).Expired(now) != true || (Bewit{Expires: now.Unix() + 1}).Expired(now) != false {
		t.Error("a bewit must work until its second and no longer")
	}
}

// Whatever parses is safe to hash (no field spills into another's line) and
// means the same when written again.
func FuzzParseHeader(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.Header)
	}
	f.Add(`Hawk id="", ts="", nonce="", mac=""`)
	f.Add(`Hawk id="a",,`)
	f.Fuzz(func(t *testing.T, s string) {
		h, err := ParseHeader(s)
		if err != nil {
			return
		}
		if strings.ContainsAny(h.ID+h.Nonce+h.Hash+h.Ext, "\n\"\\") || h.ID == "" || h.Nonce == "" {
			t.Fatalf("%q parsed as %+v", s, h)
		}
		again, err := ParseHeader(h.String())
		if err != nil || again != h {
			t.Fatalf("%+v was written and read as %+v, %v", h, again, err)
		}
	})
}

func FuzzParseBewit(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.Bewit)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := ParseBewit(s)
		if err != nil {
			return
		}
		again, err := ParseBewit(b.String())
		if err != nil || again != b || strings.Contains(b.ID+b.Ext, "\n") {
			t.Fatalf("%+v was written and read as %+v, %v", b, again, err)
		}
	})
}

// The rest of a cut has one bewit less, and nothing else is lost.
func FuzzCutBewit(f *testing.F) {
	f.Add("/a?x=1&bewit=B&y=2")
	f.Add("/a?bewit=&")
	f.Fuzz(func(t *testing.T, s string) {
		rest, b, found := CutBewit(s)
		if !found && rest != s || found && len(rest)+len("bewit=")+len(b) > len(s) || found && !strings.HasPrefix(rest, s[:strings.IndexByte(s, '?')]) {
			t.Fatalf("CutBewit(%q) = %q, %q, %v", s, rest, b, found)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	v := vectors(b)[3]
	r := v.request(b)
	b.ReportAllocs()
	for b.Loop() {
		h, err := ParseHeader(v.Header)
		if err != nil || !h.Verify(r, v.Key) {
			b.Fatal(err)
		}
	}
}
