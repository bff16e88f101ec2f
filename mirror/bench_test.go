package mirror

import (
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// BenchmarkSmall is what a small object costs, from the want to the copy, beside a
// loop that reads and writes as many objects with the same client.
func BenchmarkSmall(b *testing.B) {
	db := storetest.Open(b, storetest.URL(b, "sqlite"))
	w := newTest(b, db)
	body := noise(1, 1024)
	var origins []Origin
	fill := func(n int) {
		keys := make(chan string)
		var wait sync.WaitGroup
		for range 16 {
			wait.Go(func() {
				for key := range keys {
					if _, err := w.artifacts.PutBytes(b.Context(), key, body, blob.Headers{ContentType: "text/plain"}); err != nil {
						b.Error(err)
					}
				}
			})
		}
		for i := len(origins); i < n; i++ {
			origins = append(origins, Origin{Bucket: w.artifacts.Name(), Key: fmt.Sprint("t/0/", i)})
			keys <- origins[i].Key
		}
		close(keys)
		wait.Wait()
	}
	for _, to := range []string{near, far} {
		b.Run("plain/"+to, func(b *testing.B) {
			fill(b.N)
			b.ResetTimer()
			next := make(chan Origin)
			var wait sync.WaitGroup
			for range 16 {
				wait.Go(func() {
					for o := range next {
						r, err := w.artifacts.Get(b.Context(), o.Key, blob.Range{})
						if err != nil {
							b.Error(err)
							continue
						}
						got, err := io.ReadAll(r)
						r.Close()
						if err == nil {
							_, err = w.region(to).Bucket.PutBytes(b.Context(), "plain/"+o.Key, got, blob.Headers{ContentType: r.ContentType})
						}
						if err != nil {
							b.Error(err)
						}
					}
				})
			}
			for i := range b.N {
				next <- origins[i%len(origins)]
			}
			close(next)
			wait.Wait()
		})
		b.Run("mirror/"+to, func(b *testing.B) {
			fill(b.N)
			if err := db.Do(b.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(`DELETE FROM mirror_copy`)
				return err
			}); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			expires := timestamp.Now().Add(time.Hour)
			var list []Want
			for i := range b.N {
				list = append(list, Want{Region: to, Origin: origins[i%len(origins)], Priority: Bulk, Size: 1024, Expires: expires})
				if len(list) == 500 || i == b.N-1 {
					if _, err := w.want(b.Context(), list...); err != nil {
						b.Fatal(err)
					}
					list = nil
				}
			}
			if _, err := w.copier.shift(b.Context()); err != nil {
				b.Fatal(err)
			}
		})
	}
}
