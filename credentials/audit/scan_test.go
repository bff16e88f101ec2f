package audit

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/taskfleet/taskfleet/slugid"
)

// told words what a scan has found: "secret x:3 (2)" for two hits from line 3 on.
func told(x *index, out scanned) string {
	var words []string
	for _, h := range out.hits {
		what := ""
		if h.shape != nil {
			what = h.shape.rule
		} else {
			what = x.sources[h.source].Name
		}
		text := fmt.Sprintf("%s:%d", what, h.line)
		if h.form != "" {
			text += " " + h.form
		}
		if h.count > 1 {
			text += fmt.Sprintf(" (%d)", h.count)
		}
		words = append(words, text)
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}

// looking is an index of secrets by name.
func looking(secrets map[string]string) *index {
	x := newIndex()
	for name, text := range secrets {
		x.add(text, Source{Kind: "secret", Name: name}, true)
	}
	x.ready()
	return x
}

func scanText(t testing.TB, x *index, r io.Reader) string {
	t.Helper()
	out, err := x.scan(context.Background(), r, 1<<40)
	if err != nil {
		t.Fatal(err)
	}
	return told(x, out)
}

func zip(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, text)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// docker puts a text into frames as Docker writes them.
func docker(text string, size int) string {
	var b bytes.Buffer
	for i := 0; len(text) > 0; i++ {
		n := min(size, len(text))
		b.Write([]byte{byte(1 + i%2), 0, 0, 0})
		binary.Write(&b, binary.BigEndian, uint32(n))
		b.WriteString(text[:n])
		text = text[n:]
	}
	return b.String()
}

func TestSecretsAreFoundHoweverTheyStandInALog(t *testing.T) {
	token := slugid.Token()
	password := `p"a<ss>&w0rd\ with/all+of=it`
	key := "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7\nVJTUt9Us8cKjMzEfYyjiWA4R4/M2bS1GB4t7NXp98C3SC6dVMvDuict\n-----END PRIVATE KEY-----\n"
	x := looking(map[string]string{"token": token, "password": password, "key": key})
	quoted, _ := json.Marshal(password)
	for name, test := range map[string]struct{ log, want string }{
		"nothing":                  {"all is well\nindeed\n", ""},
		"empty":                    {"", ""},
		"by itself":                {token, "token:1"},
		"within a line":            {"a\nb\nx" + token + "y\n", "token:3"},
		"twice":                    {"a\n" + token + "\n" + token, "token:2 (2)"},
		"in JSON":                  {"{\"p\": " + string(quoted) + "}", "password:1 in JSON"},
		"in a query":               {"GET /?q=" + url.QueryEscape(password) + "&x", "password:1 in a URL"},
		"in a path":                {"GET /" + url.PathEscape(password), "password:1 in a URL"},
		"basic authentication":     {"\nAuthorization: Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+password)), "password:2 in Base64"},
		"for another user":         {"Basic " + base64.StdEncoding.EncodeToString([]byte("me:"+token+"\n")), "token:1 in Base64"},
		"for yet another":          {"Basic " + base64.URLEncoding.EncodeToString([]byte("you:"+token)), "token:1 in Base64"},
		"a line of a key":          {"x VJTUt9Us8cKjMzEfYyjiWA4R4/M2bS1GB4t7NXp98C3SC6dVMvDuict", "key:1"},
		"a key":                    {"\r\n" + strings.ReplaceAll(key, "\n", "\r\n"), "key:3 (2), private-key-in-log:2"},
		"in colours":               {token[:10] + "\x1b[31;1m" + token[10:20] + "\x1b[0m" + token[20:], "token:1"},
		"with a title":             {token[:10] + "\x1b]0;a title\x07" + token[10:20] + "\x1b]8;;x\x1b\\" + token[20:], "token:1"},
		"with a bell and a return": {token[:10] + "\x07\r" + token[10:], "token:1"},
		"in frames":                {docker("a\nb "+token+" c\n", 7), "token:2"},
		"in small frames":          {docker("a\nb "+token+" c\n", 1), "token:2"},
		"after zeros":              {strings.Repeat("\x00", 9) + token, "token:1"},
		"after half a header":      {"\x01\x00\x00" + token + "\x02\x00\x00\x00" + token, "token:1 (2)"},
		"after a broken title":     {"\x1b]0;never ends\n" + token, "token:2"},
		"in bad UTF-8":             {"\xff\xfe" + token + "\xc3", "token:1"},
		"compressed":               {zip(t, "a\n"+token), "token:2"},
		"compressed twice":         {zip(t, zip(t, "a\n"+token)), "token:2"},
		"compressed in pieces":     {zip(t, "a\n"+token[:20]) + zip(t, token[20:]), "token:2"},
		"as a variable":            {"TASKCLUSTER_ACCESS_TOKEN=" + token, "token:1"},
		"another one":              {"TASKCLUSTER_ACCESS_TOKEN=" + slugid.Token() + "\n" + `{\"accessToken\": \"` + slugid.Token()[:43] + `\"}`, "access-token-in-log:1 (2)"},
		"shapes": {"AKIAIOSFODNN7EXAMPLE\nghp_" + strings.Repeat("aB3", 12) + " xoxb-123456789012-abcdefghijklmnop", // no secrets
			"aws-key-in-log:1, github-token-in-log:2, slack-token-in-log:2"},
		"no shapes":    {"AKIAIOSFODNN7EXAMPLEX XAKIAIOSFODNN7EXAMPLE ghp_short xoxb-short accessToken: none", ""},
		"a beginning":  {token[:43], ""},
		"another case": {strings.ToUpper(token), ""},
	} {
		t.Run(name, func(t *testing.T) {
			for how, r := range map[string]io.Reader{
				"at once": strings.NewReader(test.log), "byte by byte": iotest.OneByteReader(strings.NewReader(test.log)), "by halves": iotest.HalfReader(strings.NewReader(test.log)),
			} {
				if got := scanText(t, x, r); got != test.want {
					t.Errorf("%s: found %q, want %q", how, got, test.want)
				}
			}
		})
	}
}

// Wherever a secret stands as to the pieces that a log is read in it is found, once.
func TestASecretIsFoundAtEveryPlace(t *testing.T) {
	long := slugid.Token()
	for len(long) < 3*longest {
		long += slugid.Token()
	}
	token := slugid.Token()
	x := looking(map[string]string{"token": token, "long": long})
	filler := strings.Repeat("0123456789abcde\n", 3*readSize/16)
	for _, near := range []int{0, readSize, 2 * readSize, readSize - lookAhead, readSize + readSize/2 + lookAhead} {
		for d := -70; d <= 70; d += 14 {
			at := max(near+d, 0)
			line := at/16 + 1
			want := fmt.Sprintf("token:%d", line)
			if got := scanText(t, x, strings.NewReader(filler[:at]+token+filler[at:])); got != want {
				t.Fatalf("at %d: %q, want %q", at, got, want)
			}
			if d%28 == 0 {
				if got := scanText(t, x, strings.NewReader(filler[:at]+long+filler[at:])); got != fmt.Sprintf("long:%d", line) {
					t.Fatalf("at %d: %q", at, got)
				}
			}
		}
	}
}

func TestLogsThatAreHostile(t *testing.T) {
	token := slugid.Token()
	x := looking(map[string]string{"token": token})
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	line := strings.Repeat("x", 2<<20)
	for name, test := range map[string]struct{ log, want string }{
		"one line of 4 MB":          {line + token + line, "token:1"},
		"binary":                    {"\n" + token + "\n" + string(noise) + token, "token:2 (2)"},
		"nothing but line ends":     {strings.Repeat("\n", 1<<20) + token, "token:1048577"},
		"nothing but the beginning": {strings.Repeat(token[:43], 50_000), ""},
		"a great many":              {strings.Repeat(token, 5_000), "token:1 (5000)"},
		"escapes":                   {strings.Repeat("\x1b", 1<<20) + "\x1b[" + strings.Repeat("1;", 1<<20) + "m" + token, "token:1"},
		"frames without content":    {strings.Repeat("\x01\x00\x00\x00\x00\x00\x00\x00", 1<<17) + token, "token:1"},
	} {
		if got := scanText(t, x, strings.NewReader(test.log)); got != test.want {
			t.Errorf("%s: found %q, want %q", name, got, test.want)
		}
	}
}

func TestWhatIsReadIsBounded(t *testing.T) {
	token := slugid.Token()
	x := looking(map[string]string{"token": token})
	bomb := zip(t, strings.Repeat("\x00", 4<<20)+token)
	out, err := x.scan(t.Context(), strings.NewReader(bomb), 1<<20)
	if err != nil || !out.cut || out.bytes != 1<<20 || len(out.hits) > 0 {
		t.Errorf("%+v, %v", out, err)
	}
	out, err = x.scan(t.Context(), strings.NewReader("a\n"+token), 46)
	if err != nil || out.cut || out.bytes != 46 || told(x, out) != "token:2" {
		t.Errorf("exactly as long: %+v, %v", out, err)
	}
	// What was found before an error counts.
	half := zip(t, token+"\n"+strings.Repeat(slugid.Token(), 20_000))
	out, err = x.scan(t.Context(), strings.NewReader(half[:len(half)/2]), 1<<30)
	if err == nil || told(x, out) != "token:1" {
		t.Errorf("a broken one: %s, %v", told(x, out), err)
	}
	if _, err = x.scan(t.Context(), strings.NewReader("\x1f\x8bnot compressed"), 1<<30); err == nil {
		t.Error("what only begins as if it were compressed was read")
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err = x.scan(ctx, strings.NewReader(strings.Repeat("x", 1<<20)), 1<<30); err == nil {
		t.Error("it goes on though nobody waits")
	}
}

// The index does not have what it is made of.
func TestAnIndexHasNoSecrets(t *testing.T) {
	token := slugid.Token()
	x := newIndex()
	x.add(token, Source{Kind: "client", Name: "team/ci"}, true)
	x.ready()
	if text := fmt.Sprintf("%#v %+v", x, x.at); strings.Contains(text, token[:window]) {
		t.Error("a part of the secret is in it")
	}
	if a, b := newIndex(), newIndex(); a.fingerprint([]byte(token)) == b.fingerprint([]byte(token)) || a.digest([]byte(token)) == b.digest([]byte(token)) {
		t.Error("two audits make the same of a secret")
	}
}

func TestWhatIsLookedForOfASecret(t *testing.T) {
	x := newIndex()
	x.addJSON(json.RawMessage(`{
		"username": "administrator", "host": "db.internal.example.com", "url": "https://example.com/hooks/for-everybody",
		"password": "correcthorsebatterystaple", "short": "abc", "region": "eu-central-1", "n": 123456789012345,
		"passcode": 1, "secretNumber": 123456789012345, "dsn": "https://0123456789abcdef:secret@sentry.example.com/1",
		"nested": [{"deep": "zE9x_Q2vB7-kLmN4pR8s"}], "account": "{\"private_key\": \"MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\"}"
	}`), Source{})
	x.ready()
	text := `administrator db.internal.example.com https://example.com/hooks/for-everybody eu-central-1`
	if got := scanText(t, x, strings.NewReader(text)); got != "" {
		t.Errorf("found %s in what is no secret", got)
	}
	for _, text := range []string{"correcthorsebatterystaple", "123456789012345", "https://0123456789abcdef:secret@sentry.example.com/1", "zE9x_Q2vB7-kLmN4pR8s", "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"} {
		if got := scanText(t, x, strings.NewReader(text)); got == "" {
			t.Errorf("%s is not found", text)
		}
	}
	if x.left == 0 {
		t.Error("what is not looked for is not counted")
	}
}

// Who may set secrets does not decide how much memory an audit takes, nor keeps the secrets
// of others from being looked for.
func TestWhatIsLookedForIsBounded(t *testing.T) {
	x := newIndex()
	var lines strings.Builder
	for i := range 3 * mostLines {
		fmt.Fprintf(&lines, "aB3%09d-%d\n", i*7919, i)
	}
	x.add(lines.String(), Source{Name: "large"}, true)
	if x.looked != mostLines || x.left != 2*mostLines {
		t.Errorf("of %d lines %d are looked for, and %d are not", 3*mostLines, x.looked, x.left)
	}
	x.looked = mostTexts
	x.add("zE9x_Q2vB7-kLmN4pR8s", Source{Name: "one too many"}, true)
	if x.looked != mostTexts || x.left != 2*mostLines+1 {
		t.Errorf("%d are looked for, and %d are not", x.looked, x.left)
	}
}

// However a log is cut in pieces, and whatever stands around it, a secret is found
// where it is, and nowhere else.
func FuzzScan(f *testing.F) {
	f.Add([]byte("before\n"), []byte("\nafter"), uint16(3))
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x05"), []byte("\x1b[0m"), uint16(1))
	f.Add([]byte("\x1f\x8b"), []byte("AKIA"), uint16(4096))
	token := "Zx8Q-pL3_vN7rT2mKc5WbY-aBcDeFgHiJkLmNoPqRsTu"
	x := looking(map[string]string{"token": token})
	f.Fuzz(func(t *testing.T, before, after []byte, piece uint16) {
		log := slices.Concat(before, []byte("\n"), []byte(token), after)
		one, err1 := x.scan(t.Context(), bytes.NewReader(log), 1<<30)
		two, err2 := x.scan(t.Context(), &pieces{log, int(piece)%4096 + 1}, 1<<30)
		if (err1 == nil) != (err2 == nil) || told(x, one) != told(x, two) {
			t.Errorf("at once %q, %v; in pieces %q, %v", told(x, one), err1, told(x, two), err2)
		}
		if bytes.HasPrefix(log, []byte{0x1f, 0x8b}) || bytes.ContainsAny(before, "\x01\x02") {
			return // compressed, or said to be; a header may take bytes from what follows
		}
		if !strings.Contains(told(x, one), "token:") {
			t.Errorf("the secret is not found in %q", log)
		}
		if none, _ := x.scan(t.Context(), bytes.NewReader(bytes.ReplaceAll(log, []byte(token[:43]), nil)), 1<<30); strings.Contains(told(x, none), "token:") {
			t.Errorf("the secret is found where it is not: %q", log)
		}
	})
}

type pieces struct {
	rest []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.rest[:min(p.size, len(p.rest))])
	p.rest = p.rest[n:]
	return n, nil
}
