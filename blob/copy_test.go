package blob_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/blob"
)

const (
	copied     = `<CopyObjectResult><ETag>"etag"</ETag><ChecksumSHA256>47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=</ChecksumSHA256><LastModified>2026-01-02T03:04:05Z</LastModified></CopyObjectResult>`
	copiedPart = `<CopyPartResult><ETag>"etag"</ETag></CopyPartResult>`
	completed  = `<CompleteMultipartUploadResult><ETag>"etag-1"</ETag></CompleteMultipartUploadResult>`
)

// works are the calls that S3 may answer with status 200 before it knows what
// becomes of them, with the answer to each.
var works = []struct {
	name, answer string
	call         func(ctx context.Context, b *blob.Bucket) (etag string, err error)
}{
	{"copy", copied, func(ctx context.Context, b *blob.Bucket) (string, error) {
		o, err := b.Copy(ctx, "key", b, "from", "", blob.Headers{})
		return o.ETag, err
	}},
	{"copy a part", copiedPart, func(ctx context.Context, b *blob.Bucket) (string, error) {
		p, err := b.CopyPart(ctx, "key", "id", 1, b, "from", "", blob.Range{Length: 5})
		return p.ETag, err
	}},
	{"complete", completed, func(ctx context.Context, b *blob.Bucket) (string, error) {
		o, err := b.CompleteMultipart(ctx, "key", "id", []blob.Part{{Number: 1, ETag: "abcd"}})
		return strings.TrimSuffix(o.ETag, "-1"), err
	}},
}

func TestAnErrorInAnAnswerThatBeganWellIsRepeated(t *testing.T) {
	for _, w := range works {
		for _, code := range []string{"SlowDown", "InternalError"} {
			t.Run(w.name+" "+code, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					requests := 0
					b := open(t, blob.Config{Transport: service(func(r *http.Request) (*http.Response, error) {
						if r.Method == "HEAD" {
							return answer(200, "", "ETag", `"etag-1"`, "Content-Length", "1"), nil
						}
						if requests++; requests < 4 {
							return answer(200, "\n \n <Error><Code>"+code+"</Code><Message>because</Message></Error>"), nil
						}
						return answer(200, w.answer), nil
					})})
					if etag, err := w.call(t.Context(), b); etag != "etag" || err != nil || requests != 4 {
						t.Errorf("after %d requests: %q, %v", requests, etag, err)
					}
				})
			})
		}
	}
}

func TestAnAnswerThatIsCutShortIsNoSuccess(t *testing.T) {
	for _, w := range works {
		for _, body := range []string{"", "\n\n", w.answer[:20], strings.SplitAfter(w.answer, "<ETag>")[0], "<other/>", "no XML"} {
			t.Run(w.name+" "+body, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := open(t, blob.Config{Transport: service(func(r *http.Request) (*http.Response, error) {
						a := answer(200, "", "ETag", `"another"`)
						if r.Method != "HEAD" {
							a.Body = io.NopCloser(io.MultiReader(strings.NewReader(body), iotest.ErrReader(io.ErrUnexpectedEOF)))
						}
						return a, nil
					})})
					if etag, err := w.call(t.Context(), b); err == nil {
						t.Errorf("that is a success, of ETag %q", etag)
					}
				})
			})
			t.Run(w.name+" ended "+body, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := open(t, blob.Config{Transport: service(func(r *http.Request) (*http.Response, error) {
						return answer(200, body, "ETag", `"another"`), nil
					})})
					if etag, err := w.call(t.Context(), b); err == nil {
						t.Errorf("that is a success, of ETag %q", etag)
					}
				})
			})
		}
	}
}

func TestWhatACopySends(t *testing.T) {
	var got http.Header
	answers := copied
	b := open(t, blob.Config{Transport: service(func(r *http.Request) (*http.Response, error) {
		got = r.Header
		return answer(200, answers), nil
	})})
	h := blob.Headers{ContentType: "text/plain", Metadata: map[string]string{"origin": "x", "empty": ""}}
	o, err := b.Copy(t.Context(), "key", b, "dir/ü a+b?versionId=%2F", "an-etag", h)
	if err != nil || o.SHA256 != "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" || !o.Modified.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Errorf("%+v, %v", o, err)
	}
	check := func(want map[string]string) {
		t.Helper()
		for name, value := range want {
			if got.Get(name) != value {
				t.Errorf("%s is %q, want %q", name, got.Get(name), value)
			}
		}
	}
	source := "bucket/dir~/%C3%BC%20a%2Bb%3FversionId%3D%252F"
	check(map[string]string{
		"X-Amz-Copy-Source": source, "X-Amz-Copy-Source-If-Match": `"an-etag"`, "X-Amz-Metadata-Directive": "REPLACE",
		"X-Amz-Tagging-Directive": "REPLACE", "Content-Type": "text/plain", "X-Amz-Meta-Origin": "x", "X-Amz-Checksum-Algorithm": "SHA256",
	})
	if _, sent := got["X-Amz-Meta-Empty"]; sent {
		t.Error("empty metadata was sent")
	}
	answers = copiedPart
	if _, err := b.CopyPart(t.Context(), "key", "id", 1, b, "dir/ü a+b?versionId=%2F", "", blob.Range{Offset: 5, Length: 10}); err != nil {
		t.Error(err)
	}
	check(map[string]string{"X-Amz-Copy-Source": source, "X-Amz-Copy-Source-If-Match": "", "X-Amz-Copy-Source-Range": "bytes=5-14"})
}

// What S3 says, of its several ways.
func TestTheReasonWhyACopyFailed(t *testing.T) {
	for _, c := range []struct {
		status        int
		code, message string
		want          error
	}{
		{412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold", blob.ErrChanged},
		{404, "NoSuchKey", "The specified key does not exist.", blob.ErrNotFound},
		{404, "NoSuchBucket", "", blob.ErrNoBucket},
		{404, "NoSuchUpload", "", blob.ErrNoUpload},
		{400, "InvalidRequest", "The specified copy source is larger than the maximum allowable size for a copy source: 5368709120", blob.ErrTooLarge},
		{400, "InvalidArgument", "Range specified is not valid for source object of size: 10", blob.ErrRange},
		{501, "NotImplemented", "this store has no such copies", blob.ErrUnsupported},
	} {
		requests := 0
		b := open(t, blob.Config{Transport: service(func(r *http.Request) (*http.Response, error) {
			requests++
			return answer(c.status, "<Error><Code>"+c.code+"</Code><Message>"+c.message+"</Message></Error>"), nil
		})})
		_, err := b.Copy(t.Context(), "to", b, "from", "x", blob.Headers{})
		_, err2 := b.CopyPart(t.Context(), "to", "id", 1, b, "from", "x", blob.Range{Length: 5})
		for _, err := range []error{err, err2} {
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), `"from"`) || !strings.Contains(err.Error(), `"to"`) {
				t.Errorf("%s: %v, want: %v", c.code, err, c.want)
			}
		}
		if requests != 2 {
			t.Errorf("%s: %d requests", c.code, requests)
		}
	}
}

func TestACopyMayTakeMinutesButNotForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, blob.Config{Transport: service(func(r *http.Request) (*http.Response, error) {
			select {
			case <-r.Context().Done():
				return nil, r.Context().Err()
			case <-time.After(10 * time.Minute):
				return answer(200, copied), nil
			}
		})})
		if _, err := b.Copy(t.Context(), "key", b, "from", "", blob.Headers{}); err != nil {
			t.Errorf("a copy that takes ten minutes: %v", err)
		}
		b = open(t, blob.Config{Transport: service(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})})
		start := time.Now()
		_, err := b.Copy(t.Context(), "key", b, "from", "", blob.Headers{})
		if d := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || d > 20*time.Minute {
			t.Errorf("after %v: %v", d, err)
		}
	})
}

func TestBucketsThatCanBeCopiedBetween(t *testing.T) {
	aws := func(region string) blob.Config {
		return blob.Config{Region: region, AccessKeyID: "id", SecretAccessKey: "secret"}
	}
	at := func(endpoint string) blob.Config {
		return blob.Config{Region: "us-east-1", Endpoint: endpoint, AccessKeyID: "id", SecretAccessKey: "secret", PathStyle: true}
	}
	other := aws("us-west-2")
	other.SecretAccessKey = "another"
	for _, c := range []struct {
		name     string
		to, from blob.Config
		can      bool
	}{
		{"one region", aws("us-west-2"), aws("us-west-2"), true},
		{"two regions", aws("eu-central-1"), aws("us-west-2"), true},
		{"two regions, one by the name of its endpoint", aws("eu-central-1"), at("https://s3.us-east-1.amazonaws.com"), true},
		{"China", aws("cn-north-1"), aws("us-west-2"), false},
		{"another account", aws("us-west-2"), other, false},
		{"one endpoint", at("http://127.0.0.1:9000"), at("http://127.0.0.1:9000"), true},
		{"one endpoint, spelled differently", at("https://S3.example.com"), at("https://s3.example.com:443"), true},
		{"two gateways", at("http://127.0.0.1:9000"), at("http://127.0.0.1:9001"), false},
		{"AWS and a gateway", aws("us-east-1"), at("http://127.0.0.1:9001"), false},
	} {
		to, from := store(t, c.to).Bucket("to"), store(t, c.from).Bucket("from")
		if to.CanCopyFrom(from) != c.can || from.CanCopyFrom(to) != c.can {
			t.Errorf("%s: %v, %v; want %v", c.name, to.CanCopyFrom(from), from.CanCopyFrom(to), c.can)
		}
	}
}

func store(t *testing.T, c blob.Config) *blob.Store {
	t.Helper()
	s, err := blob.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// rules is an imitation of the part of S3 that keeps life-cycle rules.
type rules struct {
	kept    string
	deleted bool
}

func (s *rules) RoundTrip(r *http.Request) (*http.Response, error) {
	switch {
	case !r.URL.Query().Has("lifecycle"):
		return failure(400, "BadRequest"), nil
	case r.Method == "PUT":
		b, err := io.ReadAll(r.Body)
		s.kept = string(b)
		return answer(200, ""), err
	case r.Method == "DELETE":
		s.kept, s.deleted = "", true
		return answer(204, ""), nil
	case s.kept == "":
		return failure(404, "NoSuchLifecycleConfiguration"), nil
	}
	return answer(200, s.kept), nil
}

func TestRulesOfOthersStay(t *testing.T) {
	const theirs = `<Rule><Filter><Prefix>logs~/</Prefix></Filter><ID>theirs</ID><Status>Enabled</Status><Expiration><Days>7</Days></Expiration></Rule>` +
		`<Rule><Filter><And><Prefix>copies~/</Prefix><ObjectSizeGreaterThan>5</ObjectSizeGreaterThan></And></Filter><ID>large</ID><Status>Enabled</Status><Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition></Rule>`
	const old = `<Rule><Prefix>copies~/</Prefix><ID>of an older version</ID><Status>Enabled</Status><Expiration><Days>9</Days></Expiration></Rule>` +
		`<Rule><Filter><Prefix>elsewhere~/</Prefix></Filter><ID>mirror</ID><Status>Enabled</Status><Expiration><Days>9</Days></Expiration></Rule>`
	s := &rules{kept: "<LifecycleConfiguration>" + theirs + old + "</LifecycleConfiguration>"}
	b := open(t, blob.Config{Transport: s})
	ours := blob.Lifecycle{ID: "mirror", Prefix: "copies/", AbortAfter: 24 * time.Hour, ExpireAfter: 48 * time.Hour}
	for range 2 { // as often as the service starts
		if err := b.SetLifecycle(t.Context(), ours); err != nil {
			t.Fatal(err)
		}
		for part, times := range map[string]int{
			"<ID>": 3, "<ID>theirs</ID>": 1, "<ID>large</ID>": 1, "<ID>mirror</ID>": 1, "<Days>7</Days>": 1, "<Days>9</Days>": 0, "<Days>2</Days>": 1,
			"<StorageClass>GLACIER</StorageClass>": 1, "<DaysAfterInitiation>1</DaysAfterInitiation>": 1, "<Prefix>copies~/</Prefix>": 2,
		} {
			if n := strings.Count(s.kept, part); n != times {
				t.Errorf("%s is there %d times, want %d: %s", part, n, times, s.kept)
			}
		}
	}
	ours.AbortAfter, ours.ExpireAfter = 0, 0
	if err := b.SetLifecycle(t.Context(), ours); err != nil || strings.Contains(s.kept, "mirror") || !strings.Contains(s.kept, "theirs") || s.deleted {
		t.Errorf("%v: %s", err, s.kept)
	}
	s.kept = "<LifecycleConfiguration>" + old + "</LifecycleConfiguration>"
	if err := b.SetLifecycle(t.Context(), ours); err != nil || !s.deleted {
		t.Errorf("%v: %s", err, s.kept)
	}
	refusing := open(t, blob.Config{Transport: service(func(*http.Request) (*http.Response, error) { return failure(501, "NotImplemented"), nil })})
	if err := refusing.SetLifecycle(t.Context(), ours); !errors.Is(err, blob.ErrUnsupported) {
		t.Errorf("a store that has no rules: %v", err)
	}
}
