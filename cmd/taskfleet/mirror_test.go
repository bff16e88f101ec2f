package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/taskfleet/taskfleet/client/loops"
	"github.com/taskfleet/taskfleet/client/mirror"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	aGroup     = "fN1SbArXTPSVFNUvaOlinA"
	anID       = "0000000000000000000000000000000000000000000000000000000000000000"
	anArtifact = aTask + "/0/public/a"
)

// A fakeMirror is a server with a mirror and a queue, as far as commands need
// them.
type fakeMirror struct {
	t *testing.T

	mu       sync.Mutex
	calls    []string          // method and path, as they came
	asked    map[string]int    // by region and URL: how often
	ends     map[string]string // by part of the URL: the state that it comes to, and the error
	largest  int               // call of wantCopies
	dryRuns  int
	pinned   int
	underWay map[string]bool
	most     int // under way

	purged, listed []mirror.Copy // instead of what is there otherwise
	mayNot         bool          // explain
	origin         string        // of what is explained
}

func newFakeMirror(t *testing.T) *fakeMirror {
	f := &fakeMirror{t: t, asked: map[string]int{}, ends: map[string]string{}, underWay: map[string]bool{}}
	fakePlatform(t, f.serve)
	return f
}

func (f *fakeMirror) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	path := r.URL.EscapedPath()
	f.calls = append(f.calls, r.Method+" "+path)
	answer := func(v any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v); err != nil {
			f.t.Error(err)
		}
	}
	text := func(s string) { answer(json.RawMessage(s)) }
	service, rest, _ := strings.Cut(strings.TrimPrefix(path, "/api/"), "/v1/")
	switch {
	case service == "mirror" && rest == "copies" && r.Method == http.MethodPost:
		f.want(r.Body, answer)
	case service == "mirror" && rest == "routes":
		text(`{"home": "us-west-2", "regions": ["eu-central-1", "us-east-1"], "allowed": ["https://archive.example.com/pub/"], "routes": [
			{"name": "images", "artifact": "public/image*", "regions": ["eu-central-1"], "policy": "redirect", "ahead": true, "prefetch": false},
			{"name": "default", "regions": ["eu-central-1", "us-east-1"], "policy": "wait", "maxWait": 28, "ahead": false, "prefetch": false}]}`)
	case service == "mirror" && rest == "status":
		r := mirror.StatusResponseRegion{Region: "eu-central-1", Bucket: "copies", Limit: new(int64(1 << 40)), Transfers: 16}
		answer(mirror.StatusResponse{At: timestamp.Now(), Home: "us-west-2", Regions: []mirror.StatusResponseRegion{r}})
	case service == "loops":
		text(`{"loops": []}`)
	case service == "mirror" && strings.HasPrefix(rest, "explain/"):
		if f.mayNot {
			w.WriteHeader(http.StatusForbidden)
			text(`{"code": "InsufficientScopes", "message": "no"}`)
			return
		}
		region, _, _ := strings.Cut(strings.TrimPrefix(rest, "explain/"), "/")
		f.explain(region, answer)
	case service == "mirror" && (r.Method == http.MethodDelete && strings.HasPrefix(rest, "purge/")):
		w.WriteHeader(http.StatusNoContent)
	case service == "mirror" && r.Method == http.MethodDelete && strings.HasPrefix(rest, "copies/") && !strings.HasSuffix(rest, "/pin"):
		out := mirror.CopyList{}
		if f.purged == nil {
			out.Copies = []mirror.Copy{f.copy("eu-central-1"), f.copy("us-east-1")}
		} else {
			out.Copies = f.purged
		}
		answer(out)
	case service == "mirror" && rest == "copies" && f.listed != nil:
		answer(mirror.CopyList{Copies: f.listed})
	case service == "mirror" && strings.HasSuffix(rest, "/pin"):
		answer(f.copy("eu-central-1"))
	case service == "mirror" && strings.HasSuffix(rest, "/verify"):
		answer(mirror.Verification{Intact: false, Message: "It has another SHA-256. It is made anew.", Copy: f.copy("eu-central-1")})
	case service == "mirror" && rest == "copies/eu-central-1/"+anID:
		answer(f.copy("eu-central-1"))
	case service == "mirror" && rest == "copies":
		answer(mirror.CopyList{Copies: []mirror.Copy{f.copy("eu-central-1"), f.copy("us-east-1")}})
	case service == "queue" && rest == "task-group/"+aGroup+"/list":
		text(`{"taskGroupId": "` + aGroup + `", "tasks": [` + fakeTask(aTask, "completed") + `, ` + fakeTask("bN1SbArXTPSVFNUvaOlinQ", "running") + `]}`)
	case service == "queue" && rest == "task/"+aTask+"/status":
		text(fakeTask(aTask, "completed"))
	case service == "queue" && rest == "task/"+aTask+"/runs/0/artifacts":
		text(`{"artifacts": [` + fakeArtifact("public/a", "s3", 1000) + `,` + fakeArtifact("public/b", "s3", 2000) + `,` + fakeArtifact("public/link", "link", 0) + `]}`)
	default:
		w.WriteHeader(http.StatusNotFound)
		text(`{"code": "ResourceNotFound", "message": "because"}`)
	}
}

func fakeTask(id, state string) string {
	return fmt.Sprintf(`{"status": {"taskId": %q, "state": %q, "runs": [{"runId": 0, "state": %q}]}}`, id, state, state)
}

func fakeArtifact(name, storage string, size int) string {
	return fmt.Sprintf(`{"name": %q, "storageType": %q, "contentLength": %d, "contentType": "text/plain", "expires": "2030-01-01T00:00:00.000Z"}`, name, storage, size)
}

func (f *fakeMirror) copy(region string) mirror.Copy {
	n := int64(1000)
	return mirror.Copy{Region: region, ID: anID, Origin: "s3://artifacts/" + aTask + "%2F0%2Fpublic%2Fa", State: "present", Pinned: true, Size: &n, Requested: timestamp.Now(), Expires: timestamp.Now().Add(time.Hour)}
}

func (f *fakeMirror) explain(region string, answer func(any)) {
	n := int64(1000)
	x := mirror.Explanation{
		Region: cmp.Or(strings.TrimPrefix(region, "caller"), "eu-central-1"), Origin: cmp.Or(f.origin, f.copy("").Origin), Kind: "s3", ID: anID, Answer: "wait",
		Summary:  []string{"It is the artifact.", "It is on the route default, with the policy wait.", "The answer is the copy."},
		Artifact: &mirror.ExplanationArtifact{TaskID: aTask, Name: "public/a", TaskQueueID: "aws/build", Size: &n, Expires: timestamp.Now().Add(time.Hour)},
		Route:    &mirror.Route{Name: "default"},
	}
	if region == "eu-central-1" {
		c := f.copy(region)
		x.Copy = &c
	}
	answer(x)
}

// want has each copy wait at the first call, be copied at the second, and end at
// the third as it shall.
func (f *fakeMirror) want(body io.Reader, answer func(any)) {
	var in mirror.WantCopiesRequest
	if err := json.NewDecoder(body).Decode(&in); err != nil {
		f.t.Error(err)
	}
	f.largest = max(f.largest, len(in.Copies))
	if in.Pinned {
		f.pinned++
	}
	if in.DryRun {
		f.dryRuns++
	}
	var out mirror.WantCopiesResponse
	for _, x := range in.Copies {
		key := in.Region + " " + x.URL
		f.asked[key]++
		size := int64(1000)
		p := mirror.WantCopiesResponseCopy{State: "missing", Size: x.Size}
		end := "present"
		for part, e := range f.ends {
			if strings.Contains(x.URL, part) {
				end = e
			}
		}
		state, reason, _ := strings.Cut(end, " ")
		switch {
		case state == "there":
			p.State, p.Size = "present", &size
		case state == "refused":
			p.State, p.Error, p.Size = state, reason, nil
		case in.DryRun:
		case f.asked[key] == 1:
			p.State = "waiting"
			f.underWay[key] = true
		case f.asked[key] == 2:
			p.State, p.Size, p.Done = "copying", &size, 300
		default:
			p.State, p.Error, p.Size = state, reason, &size
			delete(f.underWay, key)
		}
		out.Copies = append(out.Copies, p)
	}
	f.most = max(f.most, len(f.underWay))
	answer(out)
}

func (f *fakeMirror) called(part string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.calls, func(c string) bool { return strings.Contains(c, part) })
}

func TestWrongMirrorCommandLines(t *testing.T) {
	fakePlatform(t, func(w http.ResponseWriter, r *http.Request) { t.Errorf("the server was asked: %s", r.URL) })
	for line, want := range map[string]string{
		"mirror sync --urls -":                                   `required flag(s) "to" not set`,
		"mirror sync --to x":                                     "what is to be moved? Give --task ID, --task-group ID or --urls FILE",
		"mirror sync --to x --task abc":                          `"abc" is no task id`,
		"mirror sync --to x --urls - --task " + aTask:            "--urls does not go together with --task",
		"mirror sync --to x --urls - --artifact y":               "--artifact narrows down",
		"mirror copies --state gone":                             `--state is "gone"; it must be one of waiting, copying`,
		"mirror copies --limit -1":                               "--limit is -1",
		"mirror copies find":                                     "accepts 1 arg(s)",
		"mirror explain":                                         "accepts 1 arg(s)",
		"mirror explain https%3A%2F%2Fa.example.com%2Fx":         "is percent-encoded: write the URL as it is",
		"mirror explain nonsense":                                `"nonsense" is no URL and no artifact: write https://…`,
		"mirror explain " + aTask + "/public/x":                  "write TASK/RUN/NAME",
		"mirror purge https://a.example.com/x":                   "at least one of the flags in the group [region everywhere]",
		"mirror purge https://a.example.com/x -r y --everywhere": "none of the others can be",
		"mirror pin https://a.example.com/x":                     `required flag(s) "region" not set`,
		"mirror pin":                                             "requires at least 1 arg(s)",
		"mirror unpin":                                           "requires at least 1 arg(s)",
		"mirror status x":                                        `unknown command "x"`,
		"mirror routes x":                                        `unknown command "x"`,
		"mirror verify -r x " + aTask + "/-1/public/x":           "write TASK/RUN/NAME",
		"mirror nonsense":                                        `unknown command "nonsense" for "taskfleet mirror"`,
	} {
		out, errOut, code := command(t, strings.Split(line, " ")...)
		if code != exitUsage || !strings.Contains(errOut, want) || !strings.Contains(errOut, "--help") || out != "" {
			t.Errorf("%q ended with %d, %q and\n%s\nwant %q", line, code, out, errOut, want)
		}
	}
}

func TestASyncMovesAGroup(t *testing.T) {
	f := newFakeMirror(t)
	out, errOut, code := command(t, "mirror", "sync", "--to", "eu-central-1", "--to", "us-east-1", "--task-group", aGroup)
	want := "4 objects (3.9 KiB) copied to eu-central-1 and us-east-1 in "
	if code != exitOK || !strings.Contains(out, want) {
		t.Errorf("ended with %d:\n%s%s\nwant %q", code, out, errOut, want)
	}
	for _, part := range []string{"1 artifact is a link", "1 task has not ended"} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), part) {
			t.Errorf("it does not say %q:\n%s", part, out)
		}
	}
	for key, n := range f.asked {
		if !strings.Contains(key, "/api/queue/v1/task/"+aTask+"/runs/0/artifacts/public%2F") || n != 3 {
			t.Errorf("it asked for %s %d times", key, n)
		}
	}
	if f.pinned > 0 {
		t.Error("it pinned what nobody wanted pinned")
	}
}

func TestASyncNarrowsDownAndPins(t *testing.T) {
	f := newFakeMirror(t)
	f.ends["public"] = "there"
	out, errOut, code := command(t, "mirror", "sync", "--to", "eu-central-1", "--task", aTask, "--artifact", "*/a", "--pin")
	if code != exitOK || !strings.Contains(out, "0 objects (0 B) copied") || !strings.Contains(out, "1 was there before (1000 B)") || len(f.asked) != 1 || f.pinned != 1 {
		t.Errorf("ended with %d, after asking for %d:\n%s%s", code, len(f.asked), out, errOut)
	}
	_, errOut, code = command(t, "mirror", "sync", "--to", "eu-central-1", "--task", aTask, "--artifact", "*/c")
	if code != exitFailed || !strings.Contains(errOut, "no artifact has a name like */c") {
		t.Errorf("of nothing it ended with %d: %s", code, errOut)
	}
}

func TestASyncTellsWhatFailed(t *testing.T) {
	f := newFakeMirror(t)
	f.ends["bad"] = "failed The origin answered 500."
	f.ends["evil"] = "refused No rule is for its host."
	f.ends["old"] = "there"
	file := filepath.Join(t.TempDir(), "urls")
	urls := "# a list\nhttps://a.example.com/good\nhttps://a.example.com/bad?sig=secret\n\nhttps://evil.example.com/x\nhttps://a.example.com/old\n"
	if err := os.WriteFile(file, []byte(urls), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errOut, code := command(t, "mirror", "sync", "--to", "eu-central-1", "--urls", file)
	for _, part := range []string{"1 object (1000 B) copied", "1 was there before", "2 failed.",
		"* eu-central-1, https://a.example.com/bad?…: The origin answered 500.", "* eu-central-1, https://evil.example.com/x: No rule is for its host."} {
		if code != exitFailed || !strings.Contains(out, part) {
			t.Errorf("ended with %d, without %q:\n%s%s", code, part, out, errOut)
		}
	}
	out, errOut, code = command(t, "mirror", "sync", "--to", "eu-central-1", "--urls", file, "--json")
	var r syncReport
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != exitFailed || !r.Complete || r.Objects != 4 || r.Failed != 2 || len(r.Failures) != 2 || r.There+r.Copied != 2 || r.UnderWay != 0 || r.PartBytes != 0 {
		t.Errorf("ended with %d, %v:\n%s%s", code, err, out, errOut)
	}
	if strings.Contains(out+errOut, "secret") {
		t.Error("the signature is shown")
	}
}

func TestADryRunAsksForNothing(t *testing.T) {
	f := newFakeMirror(t)
	f.ends["public%2Fb"] = "there"
	out, errOut, code := command(t, "mirror", "sync", "--to", "eu-central-1", "--task-group", aGroup, "--dry-run")
	if code != exitOK || !strings.Contains(out, "1 object (1000 B) would be copied to eu-central-1; 1 was there before") || f.dryRuns != 1 {
		t.Errorf("ended with %d, %d of the calls were dry runs:\n%s%s", code, f.dryRuns, out, errOut)
	}
	for key, n := range f.asked {
		if n != 1 {
			t.Errorf("it asked for %s %d times", key, n)
		}
	}
}

// However large the set is, a bounded part of it is asked for.
func TestALargeSyncIsBounded(t *testing.T) {
	f := newFakeMirror(t)
	const n = 3 * mostUnderWay
	var urls strings.Builder
	for i := range n {
		fmt.Fprintf(&urls, "https://a.example.com/%d\n", i)
	}
	file := filepath.Join(t.TempDir(), "urls")
	if err := os.WriteFile(file, []byte(urls.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errOut, code := command(t, "mirror", "sync", "--to", "eu-central-1", "--urls", file)
	if code != exitOK || !strings.Contains(out, fmt.Sprintf("%d objects", n)) || f.largest > askedTogether || f.most > mostUnderWay || f.most < mostUnderWay/2 {
		t.Errorf("ended with %d; %d were asked for together, %d were under way:\n%s%s", code, f.largest, f.most, out, errOut)
	}
}

func TestASyncThatCannotBeginSaysWhy(t *testing.T) {
	newFakeMirror(t)
	for line, want := range map[string]string{
		"--task bN1SbArXTPSVFNUvaOlinQ":       "there is no task bN1SbArXTPSVFNUvaOlinQ here",
		"--task-group bN1SbArXTPSVFNUvaOlinQ": "there is no task group bN1SbArXTPSVFNUvaOlinQ here",
		"--urls nonsense.txt":                 "reading the URLs: open nonsense.txt",
		"--urls -":                            "no URLs came",
	} {
		out, errOut, code := command(t, append([]string{"mirror", "sync", "--to", "eu-central-1"}, strings.Fields(line)...)...)
		if code != exitFailed || !strings.Contains(errOut, want) || strings.Contains(errOut, "goes on") {
			t.Errorf("%q ended with %d, %q and %s", line, code, out, errOut)
		}
	}
}

func TestPurgesNameTheURLAsOneSegment(t *testing.T) {
	f := newFakeMirror(t)
	out, errOut, code := command(t, "mirror", "purge", "https://a.example.com/x?k=v", anArtifact, "--everywhere")
	if code != exitOK || !strings.Contains(out, "purged 2 copies (eu-central-1, us-east-1): https://a.example.com/x?…\n") || !strings.Contains(out, anArtifact) {
		t.Errorf("ended with %d: %s%s", code, out, errOut)
	}
	if !f.called("DELETE /api/mirror/v1/purge/s3/all/https:%2F%2Fa.example.com%2Fx%3Fk=v") || !f.called("runs%2F0%2Fartifacts%2Fpublic%252Fa") {
		t.Errorf("it called %q", f.calls)
	}
	if out, errOut, code = command(t, "mirror", "purge", anArtifact, "--region", "eu-central-1"); code != exitOK || !f.called("/purge/s3/eu-central-1/") {
		t.Errorf("ended with %d: %s%s", code, out, errOut)
	}
}

// What was not there was not purged, and where it is there with another query that
// is said.
func TestPurgesSayWhatWent(t *testing.T) {
	f := newFakeMirror(t)
	const where = "/api/mirror/v1/copies/eu-central-1/" + anID
	out, errOut, code := command(t, "mirror", "purge", anID, "-r", "eu-central-1")
	if code != exitOK || !strings.HasPrefix(out, "purged 2 copies") || !f.called("DELETE "+where) || f.called("explain") {
		t.Errorf("by its id it ended with %d: %s%s", code, out, errOut)
	}
	f.purged = []mirror.Copy{}
	out, errOut, code = command(t, "mirror", "purge", anArtifact, "--everywhere")
	if code != exitOK || out != "nothing to purge in all regions: "+anArtifact+"\n" {
		t.Errorf("of nothing it ended with %d: %s%s", code, out, errOut)
	}
	other := f.copy("us-east-1")
	other.ID, other.Origin = strings.Repeat("1", 64), "https://a.example.com/x"
	near := other
	near.Origin += "y"
	f.origin, f.listed = other.Origin, []mirror.Copy{other, near}
	out, errOut, code = command(t, "mirror", "purge", "https://a.example.com/x", "--everywhere")
	if code != exitFailed || !strings.Contains(out, "nothing to purge") || !strings.Contains(out, "another query") || strings.Count(out, other.ID) != 1 {
		t.Errorf("of another query it ended with %d: %s%s", code, out, errOut)
	}
	out, _, code = command(t, "mirror", "purge", "https://a.example.com/x", "--everywhere", "--json")
	var r purgeReport
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != exitFailed || len(r.Purged) != 0 || len(r.Others) != 1 {
		t.Errorf("for programs it ended with %d, %v: %s", code, err, out)
	}
	f.mayNot = true
	out, errOut, code = command(t, "mirror", "purge", "https://a.example.com/x", "-r", "us-east-1")
	if code != exitOK || !strings.Contains(out, "if there was any") || !f.called("DELETE /api/mirror/v1/purge/s3/us-east-1/") {
		t.Errorf("of who may not explain it ended with %d: %s%s", code, out, errOut)
	}
}

func TestCopiesGoByTheirIDs(t *testing.T) {
	f := newFakeMirror(t)
	for line, want := range map[string]string{
		"pin -r eu-central-1 " + anID:                    anID + " stays in eu-central-1",
		"pin -r eu-central-1 " + anID + " " + anArtifact: "is being copied to eu-central-1, and stays",
		"unpin -r eu-central-1 " + anID:                  "is not pinned in eu-central-1 any more",
		"copies find " + anID:                            "id " + anID,
		"copies --ids":                                   anID,
	} {
		if out, errOut, code := command(t, append([]string{"mirror"}, strings.Fields(line)...)...); code != exitOK || !strings.Contains(out, want) {
			t.Errorf("%q ended with %d: %s%s", line, code, out, errOut)
		}
	}
	if out, _, code := command(t, "mirror", "verify", "-r", "eu-central-1", anID); code != exitFailed || !strings.Contains(out, "1 is damaged") {
		t.Errorf("verify ended with %d: %s", code, out)
	}
	if f.called("explain") {
		t.Error("ids were explained")
	}
}

func TestWhatThereIsIsShown(t *testing.T) {
	f := newFakeMirror(t)
	for line, want := range map[string][]string{
		"copies":                    {"REGION", "STATE", "us-east-1", anArtifact},
		"copies find " + anArtifact: {anArtifact, "id " + anID, "eu-central-1", "present", "us-east-1"},
		"explain " + anArtifact + " -r us-east-1": {"The answer is the copy.\n  * It is the artifact.", "1000 B, made in aws/build", "images: no, the name is not like public/image*", "default: it fits"},
		"routes":                            {"images", "redirect", "made", "wait 28s", "everything else", "https://archive.example.com/pub/"},
		"unpin " + anArtifact:               {"is not pinned in eu-central-1 any more"},
		"pin -r eu-central-1 " + anArtifact: {"is being copied to eu-central-1, and stays"},
	} {
		out, errOut, code := command(t, append([]string{"mirror"}, strings.Fields(line)...)...)
		for _, part := range want {
			if code != exitOK || !strings.Contains(out, part) {
				t.Errorf("%q ended with %d, without %q:\n%s%s", line, code, part, out, errOut)
			}
		}
		checkWidth(t, line, out, 100)
	}
	out, _, code := command(t, "mirror", "verify", anArtifact)
	if code != exitFailed || !strings.Contains(out, "0 copies are intact (0 B), 1 is damaged:\n  * eu-central-1, "+anArtifact+": It has another SHA-256.") {
		t.Errorf("of one that is damaged it ended with %d:\n%s", code, out)
	}
	out, _, _ = command(t, "mirror", "copies", "--json")
	if n := strings.Count(out, "\n"); n != 2 {
		t.Errorf("for programs there are %d lines:\n%s", n, out)
	}
	f.ends["evil"] = "refused No rule is for its host."
	if _, errOut, code := command(t, "mirror", "pin", "https://evil.example.com/x", "-r", "us-east-1"); code != exitFailed || !strings.Contains(errOut, "https://evil.example.com/x: No rule is for its host.") {
		t.Errorf("a pin of what is refused ended with %d: %s", code, errOut)
	}
}

func TestWithoutAMirror(t *testing.T) {
	fakePlatform(t, func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) })
	for _, line := range []string{"status", "routes", "copies", "copies find " + anArtifact, "explain " + anArtifact, "sync --to x --urls " + os.DevNull} {
		if _, errOut, code := command(t, append([]string{"mirror"}, strings.Fields(line)...)...); code != exitFailed || errOut == "" {
			t.Errorf("%q ended with %d and %q", line, code, errOut)
		}
	}
}

func TestWhatIsWrongWithAMirrorIsToldFirst(t *testing.T) {
	now := timestamp.Now()
	failing := []mirror.StatusResponseRegionError{{ID: "a", Origin: "https://a.example.com/x", State: "waiting", Attempts: 3, Due: now, Error: "AccessDenied"}}
	for name, test := range map[string]struct {
		change      func(*mirror.StatusResponseRegion)
		wrong, note string
	}{
		"nothing": {func(r *mirror.StatusResponseRegion) {}, "", ""},
		"busy": {func(r *mirror.StatusResponseRegion) {
			r.States.Waiting.Objects, r.WaitingFor, r.Rate.Objects = 5, 120, 100
		}, "", ""},
		"stuck": {func(r *mirror.StatusResponseRegion) {
			r.States.Waiting.Objects, r.States.Waiting.Bytes, r.WaitingFor, r.Errors = 5, 1<<30, 120, failing
		}, "5 copies wait (1.0 GiB), the oldest for 2m00s, and none was made in the last 5m00s. What is tried fails: AccessDenied.", ""},
		"nobody": {func(r *mirror.StatusResponseRegion) { r.States.Waiting.Objects, r.WaitingFor = 1, 700 }, "1 copy waits (0 B), the oldest for 11m40s, and none was made", ""},
		"slow": {func(r *mirror.StatusResponseRegion) {
			r.States.Waiting.Objects, r.WaitingFor, r.Rate.Objects = 5, 700, 3
		}, "more comes than is copied", ""},
		"given up": {func(r *mirror.StatusResponseRegion) { r.States.Failed.Objects, r.Errors = 2, failing }, "", "2 copies were given up, most for this: AccessDenied."},
		"retried": {func(r *mirror.StatusResponseRegion) {
			r.Rate.Objects, r.Errors = 3, failing
		}, "", "1 copy is tried again: AccessDenied."},
		"away": {func(r *mirror.StatusResponseRegion) {
			r.Away, r.Reason, r.Errors = true, "the bucket b of eu-central-1 does not answer: connection refused", failing
		}, "readers get the artifacts themselves, as the bucket b of eu-central-1 does not answer: connection refused.", ""},
		"unsure": {func(r *mirror.StatusResponseRegion) {
			r.Unsure, r.Reason = true, "the bucket b of eu-central-1 is another than before"
		}, "as the bucket b of eu-central-1 is another than before.", ""},
		"leaving": {func(r *mirror.StatusResponseRegion) { r.States.Leaving.Objects, r.LeavingFor = 5, 300 }, "", ""},
		"not deleted": {func(r *mirror.StatusResponseRegion) {
			r.States.Leaving.Objects, r.LeavingFor = 5, 300
			r.Errors = []mirror.StatusResponseRegionError{{ID: "a", Origin: "https://a.example.com/x", State: "leaving", Attempts: 1, Error: "AccessDenied"}}
		}, "5 copies are being deleted, the oldest for 5m00s. What is tried fails: AccessDenied.", ""},
		"nobody deletes": {func(r *mirror.StatusResponseRegion) { r.States.Leaving.Objects, r.LeavingFor = 1, 700 }, "1 copy is being deleted, the oldest for 11m40s.", ""},
		"full":           {func(r *mirror.StatusResponseRegion) { r.Limit, r.States.Present.Bytes = new(int64(1<<40)), 1<<40-1 }, "", "it holds 1024.0 GiB of 1.0 TiB"},
	} {
		m := &mirrorState{StatusResponse: &mirror.StatusResponse{At: now}}
		r := mirror.StatusResponseRegion{Region: "eu-central-1"}
		r.Rate.Seconds = 300
		test.change(&r)
		m.judge(&r)
		for kind, pair := range map[string]struct {
			got  []mirrorFinding
			want string
		}{"wrong": {m.Wrong, test.wrong}, "a note": {m.Notes, test.note}} {
			if len(pair.got) != min(len(pair.want), 1) || len(pair.got) == 1 && (!strings.Contains(pair.got[0].Text, pair.want) || pair.got[0].Next == "") {
				t.Errorf("%s: %s is %+v, want %q", name, kind, pair.got, pair.want)
			}
		}
	}
	m := &mirrorState{}
	m.judgeLoop(&loops.ListLoopsResponseLoop{Name: "queue.claims", LastError: "x"})
	m.judgeLoop(&loops.ListLoopsResponseLoop{Name: "mirror.copy", LastError: "no route"})
	if len(m.Wrong) != 1 || !strings.Contains(m.Wrong[0].Text, "The loop mirror.copy fails: no route.") {
		t.Errorf("of loops it says %+v", m.Wrong)
	}
}

// What operators look at most fits a terminal of 80 columns.
func TestMirrorTablesFit(t *testing.T) {
	now := timestamp.Now()
	m := &mirrorState{StatusResponse: &mirror.StatusResponse{At: now, Home: "us-west-2"}}
	for _, name := range []string{"eu-central-1", "ap-southeast-2"} {
		r := mirror.StatusResponseRegion{Region: name, Limit: new(int64(100 << 40)), OldestWaiting: now, WaitingFor: 3 * 3600}
		r.States.Present.Objects, r.States.Present.Bytes, r.States.Failed.Objects, r.States.Leaving.Objects = 12345678, 99<<40, 1234, 12345
		r.Backlog.Objects, r.Backlog.Bytes, r.States.Copying.Objects = 1234567, 10<<40, 160
		r.Rate.BytesPerSecond, r.Rate.ObjectsPerSecond = 1023<<20, 12345.6
		m.Regions = append(m.Regions, r)
	}
	var out bytes.Buffer
	if err := m.print(&out, false, 80); err != nil {
		t.Fatal(err)
	}
	checkWidth(t, "status", out.String(), 80)
	long := "s3://artifacts/" + aTask + "%2F0%2Fpublic%2F" + strings.Repeat("very-long-name-", 20) + "end"
	l := copyLister{now: now, regions: true, states: true}
	size := int64(123 << 30)
	if err := l.add(&mirror.Copy{Region: "ap-southeast-2", State: "present", Origin: long, Size: &size, Requested: now.Add(-30 * time.Hour), Read: now}); err != nil {
		t.Fatal(err)
	}
	narrowLast(&l.table, 80)
	text := l.table.text(80)
	checkWidth(t, "copies", text, 80)
	if !strings.Contains(text, "end\n") {
		t.Errorf("the end of the name is not shown:\n%s", text)
	}
}

func checkWidth(t *testing.T, what, text string, width int) {
	t.Helper()
	for l := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimRight(l, "\n")); n > width {
			t.Errorf("%s has a line of %d columns: %s", what, n, l)
		}
	}
}
