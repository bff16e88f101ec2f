package mirror

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/mirror/source/faulty"
	"github.com/taskfleet/taskfleet/store"
)

// A key that no database holds is the caller's fault, not ours.
func TestKeysThatAreNoTextAreRefused(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db)
		signed := w.artifacts.URLForms()[0] + mustSpell(t, someTask+"/0/public/\xff")
		items := []map[string]any{}
		for _, text := range []string{
			"s3://artifacts/" + someTask + "/0/public%2F%00", "s3://artifacts/" + someTask + "/0/public%2F%ff", "s3://artifacts/%00",
			w.root + "/api/queue/v1/task/" + someTask + "/runs/0/artifacts/public%2F%00", w.root + "/api/queue/v1/task/" + someTask + "/runs/0/artifacts/%ff", signed,
		} {
			for _, path := range []string{"/redirect/s3/" + near, "/redirect/s3/" + home} {
				if p := w.call("GET", path+"/"+url.PathEscape(text), nil); p.status != 400 || p.body["code"] != "InputError" || !strings.Contains(p.text, "no UTF-8") {
					t.Errorf("%s %s: %d %s", path, text, p.status, p.text)
				}
			}
			w.answers(400, "DELETE", "/purge/s3/"+near+"/"+url.PathEscape(text), nil)
			if p := w.answers(200, "GET", "/explain/"+near+"/"+url.PathEscape(text), nil); p.body["answer"] != answerRefused {
				t.Errorf("explain %s: %s", text, p.text)
			}
			items = append(items, map[string]any{"url": text})
		}
		items = append(items, map[string]any{"url": w.remote("/pub/a", faulty.Object{Size: 5}).URL})
		p := w.answers(200, "POST", "/copies", map[string]any{"region": near, "copies": items})
		var out orderResponse
		if err := json.Unmarshal([]byte(p.text), &out); err != nil {
			t.Fatal(err)
		}
		for i, x := range out.Copies {
			if want := i < len(items)-1; (x.State == stateRefused) != want || (x.Error != "") != want {
				t.Errorf("of an order, %s: %+v", items[i]["url"], x)
			}
		}
	})
}

// Who has got the URL wrong is told how.
func TestMessagesAreForCallers(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db)
		w.copying()
		w.remote("/pub/missing", faulty.Object{Size: 5, Always: []faulty.Fault{faulty.Missing}})
		for text, says := range map[string]string{
			url.QueryEscape("https://example.com/a"):                  "percent-encoded twice",
			url.QueryEscape(url.QueryEscape("https://example.com/a")): "percent-encoded twice",
			"https:%2F%2Fexample.com%2Fa":                             "percent-encoded twice",
			url.QueryEscape("s3://artifacts/x"):                       "percent-encoded twice",
			"s3://artifacts":                                          "write s3://BUCKET/KEY",
			"s3://artifacts/%zz":                                      "%25 for a percent sign",
			"no%20URL":                                                "its scheme is",
			w.originURL + "/pub/missing":                              "404 Not Found",
		} {
			p := w.redirected(near, text)
			said := fmt.Sprint(p.body["message"])
			if !strings.Contains(said, says) || p.status < 400 || p.status >= 500 {
				t.Errorf("%s: %d %s", text, p.status, p.text)
			}
			for _, inside := range []string{"source:", "Source:", "mirror:"} {
				if strings.Contains(said, inside) {
					t.Errorf("%s is told where we are: %s", text, said)
				}
			}
		}
	})
}

// A path that is no text is none of the API's methods. Who sends one is told all
// the same.
func TestPathsThatAreNoTextAreTold(t *testing.T) {
	passed := 0
	h := Legible(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { passed++ }))
	for path, says := range map[string]string{
		"/redirect/s3/eu/%00":                          "%2500",
		"/redirect/s3/eu/https%3A%2F%2Fa.test%2F%ff":   "no UTF-8",
		"/redirect/s3/eu/":                             "There is no URL",
		"/redirect/s3/eu":                              "There is no URL",
		"/purge/s3/eu/%FF":                             "no UTF-8",
		"/purge/s3/all/":                               "There is no URL",
		"/redirect/s3/eu/https%3A%2F%2Fa.test%2F%2500": "",
		"/redirect/s3/eu/https://a.test/":              "", // of which the method tells
		"/redirect/s3/":                                "",
		"/redirect":                                    "",
		"/copies/eu/%00":                               "",
		"/ping":                                        "",
	} {
		for _, base := range []string{"/v1", "/api/mirror/v1"} {
			passed = 0
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, httptest.NewRequest("GET", base+path, nil))
			var body struct{ Code, Message string }
			json.Unmarshal(rec.Body.Bytes(), &body) // the body is compared
			if says == "" && passed != 1 || says != "" && (passed != 0 || rec.Code != 400 || body.Code != "InputError" || !strings.Contains(body.Message, says)) {
				t.Errorf("%s%s: passed on %d times, %d %s", base, path, passed, rec.Code, rec.Body)
			}
		}
	}
	for _, path := range []string{"/api/queue/v1/redirect/s3/eu/", "/", "/explain/x/"} {
		passed = 0
		if h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil)); passed != 1 {
			t.Errorf("%s is another's", path)
		}
	}
}
