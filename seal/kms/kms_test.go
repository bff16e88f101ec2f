package kms

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/taskfleet/taskfleet/seal"
)

const (
	here      = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
	elsewhere = "arn:aws:kms:us-west-2:123456789012:key/66666666-7777-8888-9999-000000000000"
)

// fakeKMS is a key management service with two keys, spoken to over HTTP. What
// it encrypts is an opaque handle: it remembers what is behind it.
type fakeKMS struct {
	mu       sync.Mutex
	behind   map[string]dataKey // by ciphertext
	disabled string             // ARN of a key that is
	fail     int                // requests to fail before one is answered
	calls    int
}

type dataKey struct {
	plaintext []byte
	arn       string
	context   map[string]string
}

func (f *fakeKMS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if f.fail > 0 {
		f.fail--
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	var in struct {
		KeyId, KeySpec    string
		CiphertextBlob    []byte
		EncryptionContext map[string]string
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		f.refuse(w, "SerializationException")
		return
	}
	name := in.KeyId
	if name == "alias/taskfleet" {
		name = here
	}
	// A key is in its region, which the signature names.
	if name != here && name != elsewhere || !strings.Contains(r.Header.Get("Authorization"), "/"+strings.Split(name, ":")[3]+"/kms/") {
		f.refuse(w, "NotFoundException")
		return
	}
	if name == f.disabled {
		f.refuse(w, "DisabledException")
		return
	}
	switch r.Header.Get("X-Amz-Target") {
	case "TrentService.GenerateDataKey":
		if in.KeySpec != "AES_256" {
			f.refuse(w, "ValidationException")
			return
		}
		handle, plaintext := make([]byte, 40), make([]byte, 32)
		rand.Read(handle)
		rand.Read(plaintext)
		f.behind[string(handle)] = dataKey{plaintext, name, in.EncryptionContext}
		json.NewEncoder(w).Encode(map[string]any{"CiphertextBlob": handle, "Plaintext": plaintext, "KeyId": name})
	case "TrentService.Decrypt":
		k, ok := f.behind[string(in.CiphertextBlob)]
		switch {
		case !ok || !maps.Equal(k.context, in.EncryptionContext):
			f.refuse(w, "InvalidCiphertextException")
		case k.arn != name:
			f.refuse(w, "IncorrectKeyException")
		default:
			json.NewEncoder(w).Encode(map[string]any{"Plaintext": k.plaintext, "KeyId": name})
		}
	default:
		f.refuse(w, "UnknownOperationException")
	}
}

func (f *fakeKMS) refuse(w http.ResponseWriter, code string) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(http.StatusBadRequest)
	io.WriteString(w, `{"__type":"`+code+`","message":"refused"}`)
}

func start(t *testing.T) (*fakeKMS, *Client) {
	t.Helper()
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	f := &fakeKMS{behind: map[string]dataKey{}}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	c, err := Open(t.Context(), Config{
		Region: "eu-west-1", Endpoint: server.URL, Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	})
	if err != nil {
		t.Fatal(err)
	}
	return f, c
}

func newLine(t *testing.T, c *Client, kmsKey string) string {
	t.Helper()
	line, err := c.NewKey(t.Context(), kmsKey)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

func TestAKeyIsMadeAndReadAgain(t *testing.T) {
	_, c := start(t)
	line := newLine(t, c, "alias/taskfleet")
	if !strings.HasPrefix(line, prefix+here+" ") {
		t.Errorf("the line does not name the key that the alias means: %s", line)
	}
	keys, err := seal.ParseKeysWith(line, c.ParseKey(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	again, err := seal.ParseKeysWith(line, c.ParseKey(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	secret, err := again.Open(keys.Seal([]byte("hunter2"), "place"), "place")
	if err != nil || string(secret) != "hunter2" {
		t.Errorf("after a restart: %q, %v", secret, err)
	}
}

func TestAPlatformMovesFromPlainKeysToKMSAndBetweenItsKeys(t *testing.T) {
	f, c := start(t)
	plain := seal.NewKey()
	first, second := newLine(t, c, here), newLine(t, c, elsewhere)
	file := filepath.Join(t.TempDir(), "keys")
	text := "# plain, then KMS\n" + plain.Text() + "\n\n  " + first + "\n" + second + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if !Wrapped(text) || Wrapped(plain.Text()+"\n# "+prefix) {
		t.Error("Wrapped is wrong about which text needs KMS")
	}
	f.calls = 0
	keys, err := seal.ReadFileWith(file, c.ParseKey(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if f.calls != 2 {
		t.Errorf("KMS was asked %d times for two keys", f.calls)
	}
	old, err := seal.NewKeys(plain)
	if err != nil {
		t.Fatal(err)
	}
	if secret, err := keys.Open(old.Seal([]byte("x"), "p"), "p"); err != nil || string(secret) != "x" {
		t.Errorf("what the plain key has sealed: %q, %v", secret, err)
	}
	last, err := c.ParseKey(t.Context())(second)
	if err != nil || keys.Newest() != last.ID() {
		t.Errorf("the newest key is %s, not that of the last line: %v", keys.Newest(), err)
	}
}

func TestWhatKMSDoesNotDecryptIsExplained(t *testing.T) {
	f, c := start(t)
	line := newLine(t, c, here)
	parts := strings.Fields(line)
	changed, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil {
		t.Fatal(err)
	}
	changed[3] ^= 1
	f.behind["of another purpose"] = dataKey{make([]byte, 32), here, map[string]string{"purpose": "backups"}}
	f.behind["short"] = dataKey{make([]byte, 16), here, purpose}
	encode := base64.StdEncoding.EncodeToString
	for bad, want := range map[string]string{
		prefix + here + " " + encode(changed):                              "was changed",
		prefix + here + " " + encode([]byte("of another purpose")):         "for another purpose",
		prefix + here + " " + encode([]byte("short")):                      "has 32 bytes, not 16",
		prefix + elsewhere + " " + parts[2]:                                "under another KMS key",
		prefix + strings.Replace(here, "1111", "9999", 1) + " " + parts[2]: "no such key",
		prefix + "alias/taskfleet " + parts[2]:                             "not the ARN",
		prefix + here:                                                      "2 words",
		prefix + here + " !":                                               "not base64",
		"hunter2":                                                          "this is something else",
	} {
		_, err := seal.ParseKeysWith("# a comment\n"+bad, c.ParseKey(t.Context()))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%.60s: %v, want %q", bad, err, want)
		}
	}
	f.disabled = here
	if _, err := c.ParseKey(t.Context())(line); err == nil || !strings.Contains(err.Error(), "enable it") {
		t.Errorf("a disabled key: %v", err)
	}
	if _, err := c.NewKey(t.Context(), "alias/unknown"); err == nil || !strings.Contains(err.Error(), "no such key") {
		t.Errorf("a key under one that does not exist: %v", err)
	}
}

func TestFaultsThatPassArePassedOver(t *testing.T) {
	f, c := start(t)
	line := newLine(t, c, here)
	f.fail = 2
	if _, err := c.ParseKey(t.Context())(line); err != nil {
		t.Errorf("after two failures: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.ParseKey(ctx)(line); err == nil {
		t.Error("a key was read after the end")
	}
}

func TestTheKeyIsNotInItsLine(t *testing.T) {
	f, c := start(t)
	line := newLine(t, c, here)
	for _, k := range f.behind {
		if bytes.Contains([]byte(line), []byte(base64.StdEncoding.EncodeToString(k.plaintext))) || bytes.Contains([]byte(line), k.plaintext) {
			t.Error("the key shows in its line")
		}
	}
}
