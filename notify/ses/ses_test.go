package ses

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sesv2"
	"github.com/aws/aws-sdk-go-v2/service/sesv2/types"

	"github.com/taskfleet/taskfleet/notify"
)

const secret = "aws/very/secret"

// A region is SES in one region, as far as sending goes, with behaviour:
// identities, and answers that a test sets.
type region struct {
	*httptest.Server
	mu       sync.Mutex
	verified map[string]bool
	requests []map[string]any
	mails    int
	status   int
	kind     string // of the error to answer with
}

func open(t *testing.T) *region {
	t.Helper()
	r := &region{verified: map[string]bool{}}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *region) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var body map[string]any
	err := json.NewDecoder(q.Body).Decode(&body)
	fail := func(status int, kind, message string) {
		w.Header().Set("X-Amzn-ErrorType", kind)
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(map[string]string{"message": message})
	}
	switch {
	case r.kind != "":
		r.requests = append(r.requests, body)
		fail(r.status, r.kind, "for a test")
	case q.Method != "POST" || err != nil || !strings.HasPrefix(q.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=test/"):
		fail(400, "BadRequestException", "what is this?")
	case q.URL.Path == "/v2/email/identities":
		r.verified[body["EmailIdentity"].(string)] = true
		fmt.Fprint(w, `{"IdentityType":"EMAIL_ADDRESS","VerifiedForSendingStatus":true}`)
	case q.URL.Path == "/v2/email/outbound-emails":
		from := body["FromEmailAddress"].(string)
		if !r.verified[from[strings.IndexByte(from, '<')+1:len(from)-1]] {
			fail(400, "MessageRejected", "Email address not verified "+from)
			return
		}
		r.requests = append(r.requests, body)
		r.mails++
		fmt.Fprint(w, `{"MessageId":"1"}`)
	default:
		fail(404, "NotFoundException", q.URL.Path)
	}
}

func sender(t *testing.T, endpoint string) *Sender {
	t.Helper()
	s, err := New(t.Context(), Config{
		Region: "us-east-1", From: "Taskfleet <taskfleet@example.com>", AccessKeyID: "test", SecretAccessKey: secret, Endpoint: endpoint,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var letter = notify.Mail{ID: "an-id", To: "ann@example.com", ReplyTo: "bob@example.com", Subject: "Größe: done", Text: "It *works*.\n", HTML: "<p>It <em>works</em>.</p>"}

func about(err error) string {
	if _, ok := errors.AsType[*notify.Refusal](err); ok {
		return "message"
	}
	if _, ok := errors.AsType[*notify.Delay](err); ok {
		return "address"
	}
	return "service"
}

// The second opinion is moto's, where one runs; `make test` sees to it.
func TestAnEmailIsSentFromAVerifiedIdentity(t *testing.T) {
	endpoints := []string{open(t).URL}
	if moto := os.Getenv("TASKFLEET_TEST_MOTO"); moto != "" {
		endpoints = append(endpoints, moto)
	}
	for _, endpoint := range endpoints {
		s := sender(t, endpoint)
		identity := fmt.Sprintf("taskfleet-%d@example.com", rand.Uint64()) // moto remembers those of earlier runs
		s.config.From = "Taskfleet <" + identity + ">"
		if err := s.Send(t.Context(), letter); err == nil || about(err) != "service" || !strings.Contains(err.Error(), "not verified") {
			t.Errorf("%s: not verified: %v", endpoint, err)
		}
		_, err := s.client.CreateEmailIdentity(t.Context(), &sesv2.CreateEmailIdentityInput{EmailIdentity: aws.String(identity)})
		if _, exists := errors.AsType[*types.AlreadyExistsException](err); err != nil && !exists { // the answer to a first attempt was lost
			t.Fatal(err)
		}
		if err := s.Send(t.Context(), letter); err != nil {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
}

func TestARequestSaysWhatIsMeant(t *testing.T) {
	r := open(t)
	r.verified["taskfleet@example.com"] = true
	s := sender(t, r.URL)
	s.config.ConfigurationSet = "tasks"
	if err := s.Send(t.Context(), letter); err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(r.requests)
	want := `[{"ConfigurationSetName":"tasks","Content":{"Simple":{"Body":{"Html":{"Charset":"UTF-8","Data":"\u003cp\u003eIt \u003cem\u003eworks\u003c/em\u003e.\u003c/p\u003e"},` +
		`"Text":{"Charset":"UTF-8","Data":"It *works*.\n"}},"Headers":[{"Name":"Auto-Submitted","Value":"auto-generated"},{"Name":"X-Entity-Ref-ID","Value":"an-id"}],` +
		`"Subject":{"Charset":"UTF-8","Data":"Größe: done"}}},"Destination":{"ToAddresses":["ann@example.com"]},"FromEmailAddress":"Taskfleet \u003ctaskfleet@example.com\u003e","ReplyToAddresses":["bob@example.com"]}]`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestWhatSESAnswersDecides(t *testing.T) {
	for _, c := range []struct {
		status int
		kind   string
		about  string
	}{
		{400, "MessageRejected", "message"}, // for what is in it
		{400, "BadRequestException", "message"},
		{429, "TooManyRequestsException", "service"},
		{400, "LimitExceededException", "service"},
		{400, "SendingPausedException", "service"},
		{400, "AccountSuspendedException", "service"},
		{400, "MailFromDomainNotVerifiedException", "service"},
		{404, "NotFoundException", "service"},
		{403, "AccessDeniedException", "service"},
		{403, "SignatureDoesNotMatch", "service"},
		{500, "InternalServiceErrorException", "service"},
		{503, "ServiceUnavailable", "service"},
	} {
		r := open(t)
		r.status, r.kind = c.status, c.kind
		err := sender(t, r.URL).Send(t.Context(), letter)
		if err == nil || about(err) != c.about || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v is about the %s, want %s", c.kind, err, about(err), c.about)
		}
		if len(r.requests) == 0 || len(r.requests) > 2 {
			t.Errorf("%s: asked %d times", c.kind, len(r.requests))
		}
	}
}

func TestMistakesOfTheConfigurationAreExplained(t *testing.T) {
	good := Config{Region: "us-east-1", From: "taskfleet@example.com", AccessKeyID: "test", SecretAccessKey: secret}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Region = "" }, "region must"},
		{func(c *Config) { c.From = "x" }, "from is"},
		{func(c *Config) { c.AccessKeyID = "" }, "go together"},
		{func(c *Config) { c.Endpoint = "email.us-east-1.amazonaws.com" }, "endpoint is"},
	} {
		bad := good
		c.change(&bad)
		if err := bad.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	if text := fmt.Sprintf("%v %+v %#v", good, good, good); strings.Contains(text, secret) {
		t.Errorf("printed: %s", text)
	}
}
