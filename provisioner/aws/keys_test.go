package aws_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	provider "github.com/taskfleet/taskfleet/provisioner/aws"
)

// An access key is replaced once STS knows it, and not before.
func TestTheAccessKeyIsReplaced(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "first")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret-1")
	var mu sync.Mutex
	last := ""
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, rest, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
		id, _, _ := strings.Cut(rest, "/")
		mu.Lock()
		defer mu.Unlock()
		if last = id; id == "unknown" {
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `<ErrorResponse><Error><Code>InvalidClientTokenId</Code></Error></ErrorResponse>`)
			return
		}
		io.WriteString(w, `<GetCallerIdentityResponse><GetCallerIdentityResult><Account>1</Account></GetCallerIdentityResult></GetCallerIdentityResponse>`)
	}))
	defer s.Close()
	keys := &provider.Keys{}
	clients, err := provider.SDK(t.Context(), s.URL, keys)
	if err != nil {
		t.Fatal(err)
	}
	c := clients(provider.Account{ID: "1"}, "us-east-1")
	asked := func(want string) {
		t.Helper()
		c.EC2.DescribeImages(t.Context(), &ec2.DescribeImagesInput{}) // which is no answer to that; who asked is of interest
		mu.Lock()
		defer mu.Unlock()
		if last != want {
			t.Errorf("%s has asked, not %s", last, want)
		}
	}
	asked("first")
	if err := keys.Use(t.Context(), "unknown", "secret-2", ""); err == nil || strings.Contains(err.Error(), "secret-2") {
		t.Errorf("a key that AWS does not know: %v", err)
	}
	if err := keys.Use(t.Context(), "second", "", ""); err == nil {
		t.Error("half a key is taken")
	}
	asked("first")
	if err := keys.Use(t.Context(), "second", "secret-2", ""); err != nil {
		t.Fatal(err)
	}
	asked("second")
}
