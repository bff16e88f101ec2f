package store_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

var kinds = []string{"sqlite", "postgres"}

// benchmark runs body in one goroutine and in 16, on every database.
func benchmark(b *testing.B, body func(db *store.DB, i int64) error) {
	for _, kind := range kinds {
		for _, parallel := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/goroutines=%d", kind, parallel), func(b *testing.B) {
				url := strings.TrimSuffix(storetest.URL(b, kind), "?synchronous=off") // wait for the disk, as in production
				db := storetest.Open(b, url)
				migrate(b, db)
				do(b, db, `INSERT INTO item (name) VALUES ('read')`)
				var i atomic.Int64
				if parallel == 1 {
					for b.Loop() {
						if err := body(db, i.Add(1)); err != nil {
							b.Fatal(err)
						}
					}
					return
				}
				b.SetParallelism(parallel / 2)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := body(db, i.Add(1)); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}

func BenchmarkDoInsert(b *testing.B) {
	benchmark(b, func(db *store.DB, i int64) error {
		return db.Do(b.Context(), exec(`INSERT INTO item (name, count) VALUES ($1, $2)`, fmt.Sprint(i), i))
	})
}

func BenchmarkDoInsertAndWake(b *testing.B) {
	benchmark(b, func(db *store.DB, i int64) error {
		return db.Do(b.Context(), func(tx *store.Tx) error {
			tx.Wake("items", 1)
			return exec(`INSERT INTO item (name, count) VALUES ($1, $2)`, fmt.Sprint(i), i)(tx)
		})
	})
}

func BenchmarkViewRow(b *testing.B) {
	benchmark(b, func(db *store.DB, _ int64) error {
		return db.View(b.Context(), func(tx *store.Tx) error {
			var n int
			return tx.QueryRow(`SELECT count FROM item WHERE name = $1`, "read").Scan(&n)
		})
	})
}
