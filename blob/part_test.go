package blob_test

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"os"
	"testing"
	"testing/synctest"

	"github.com/taskfleet/taskfleet/blob"
)

// A part that is read from a file is sent again, all of it and no more, when the
// store has failed, with its SHA-256 in the signature.
func TestAPartFromAFileIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString("the part, and more"); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256([]byte("the part"))
		var got []string
		b := open(t, blob.Config{Transport: service(func(r *http.Request) (*http.Response, error) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return nil, err
			}
			if r.ContentLength != 8 || r.Header.Get("X-Amz-Content-Sha256") != hex.EncodeToString(sum[:]) {
				t.Errorf("the request has %d bytes, and the headers %v", r.ContentLength, r.Header)
			}
			if got = append(got, string(body)); len(got) < 3 {
				return answer(500, "<Error><Code>InternalError</Code></Error>"), nil
			}
			return answer(200, "", "ETag", `"etag"`), nil
		})})
		p, err := b.PutPartFrom(t.Context(), "key", "id", 7, f, 8, sum)
		if err != nil || p != (blob.Part{Number: 7, ETag: "etag", Size: 8}) {
			t.Errorf("%+v, %v", p, err)
		}
		for _, body := range got {
			if body != "the part" {
				t.Errorf("sent was %q", body)
			}
		}
	})
}
