package imdstest_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/worker/ec2/imdstest"
)

func TestTheServiceAsProgramsSeeIt(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	s := imdstest.New(imdstest.Instance{
		ID: "i-1", Type: "m7g.large", Region: "eu-west-1", AvailabilityZone: "eu-west-1b", PrivateIP: "10.0.0.7",
		UserData: "data", Document: "{ }\n", Signature: "s", RSA2048: "r", PKCS7: "p",
	}, func() time.Time { return now })
	do := func(method, path string, headers ...string) (int, string) {
		t.Helper()
		r := httptest.NewRequest(method, path, nil)
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			r.Header.Set(name, value)
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	const life = "X-aws-ec2-metadata-token-ttl-seconds"
	for headers, want := range map[string]int{
		"X: y": 400, life + ": 0": 400, life + ": 21601": 400, life + ": soon": 400, life + ": 21600": 200,
	} {
		if code, _ := do(http.MethodPut, "/latest/api/token", headers); code != want {
			t.Errorf("a token with %q: %d, want %d", headers, code, want)
		}
	}
	if code, _ := do(http.MethodPut, "/latest/api/token", life+": 60", "X-Forwarded-For: 10.0.0.1"); code != 403 {
		t.Errorf("a token through a proxy: %d", code)
	}
	_, token := do(http.MethodPut, "/latest/api/token", life+": 60")
	with := "X-aws-ec2-metadata-token: " + token
	for path, want := range map[string]string{
		"/latest/user-data":                              "data",
		"/latest/dynamic/instance-identity/document":     "{ }\n",
		"/latest/dynamic/instance-identity/signature":    "s",
		"/latest/dynamic/instance-identity/rsa2048":      "r",
		"/latest/dynamic/instance-identity/pkcs7":        "p",
		"/latest/dynamic/instance-identity/":             "document\npkcs7\nrsa2048\nsignature",
		"/latest/meta-data/instance-id":                  "i-1",
		"/latest/meta-data/instance-type":                "m7g.large",
		"/latest/meta-data/local-ipv4":                   "10.0.0.7",
		"/latest/meta-data/placement":                    "availability-zone\nregion",
		"/latest/meta-data/placement/availability-zone":  "eu-west-1b",
		"/latest/meta-data/events/maintenance/scheduled": "[]",
	} {
		if code, got := do(http.MethodGet, path, with); code != 200 || got != want {
			t.Errorf("%s is %d %q, want %q", path, code, got, want)
		}
	}
	for _, path := range []string{
		"/latest/meta-data/public-ipv4", "/latest/meta-data/spot/instance-action", "/latest/meta-data/events/recommendations/rebalance", "/latest/nothing", "/",
	} {
		if code, _ := do(http.MethodGet, path, with); code != 404 {
			t.Errorf("%s is %d", path, code)
		}
	}
	if code, _ := do(http.MethodPost, "/latest/user-data", with); code != 405 {
		t.Errorf("a POST is answered with %d", code)
	}
	if s.Asked("meta-data/spot/instance-action") != 1 {
		t.Errorf("it was asked %d times for interruptions", s.Asked("meta-data/spot/instance-action"))
	}

	s.Interrupt(now.Add(2 * time.Minute))
	s.Recommend()
	s.Schedule("system-reboot", now, now.Add(time.Hour))
	for path, want := range map[string]string{
		"spot/instance-action":             `{"action": "terminate", "time": "2026-03-04T05:08:07Z"}`,
		"spot/termination-time":            "2026-03-04T05:08:07Z",
		"events/recommendations/rebalance": `{"noticeTime": "2026-03-04T05:06:07Z"}`,
		"events/maintenance/scheduled": `[{"NotBefore":"4 Mar 2026 05:06:07 GMT","Code":"system-reboot","Description":"scheduled system-reboot",` +
			`"EventId":"instance-event-00000000000000001","NotAfter":"4 Mar 2026 06:06:07 GMT","State":"active"}]`,
	} {
		if code, got := do(http.MethodGet, "/latest/meta-data/"+path, with); code != 200 || got != want {
			t.Errorf("%s is %d %q, want %q", path, code, got, want)
		}
	}

	now = now.Add(61 * time.Second)
	for _, header := range []string{with, "X-aws-ec2-metadata-token: made-up", "X: y"} {
		if code, _ := do(http.MethodGet, "/latest/user-data", header); code != 401 {
			t.Errorf("with %q: %d", header, code)
		}
	}
	s.Enable(false)
	if code, _ := do(http.MethodPut, "/latest/api/token", life+": 60"); code != 403 {
		t.Errorf("turned off, it answers %d", code)
	}
}
