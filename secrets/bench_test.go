package secrets

import (
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// Calls from HTTP request to reply, one after the other, with authentication
// left out: sealing, schema and database.
func BenchmarkSecrets(b *testing.B) {
	kinds := []string{"sqlite"}
	if os.Getenv("TASKFLEET_TEST_POSTGRES") != "" {
		kinds = append(kinds, "postgres")
	}
	for _, kind := range kinds {
		key := seal.NewKey()
		w := newWorld(b, storetest.Open(b, storetest.URL(b, kind)), key)
		w.config.Log, w.config.Audit = slog.New(slog.NewTextHandler(io.Discard, nil)), nil
		w.restart(key)
		value := body(`{"username": "deploy", "password": "correct horse battery staple"}`, time.Hour)
		b.Run("set/"+kind, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w.want(200, "PUT", at("project/taskfleet/deploy"), value)
			}
		})
		b.Run("get/"+kind, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w.want(200, "GET", at("project/taskfleet/deploy"), "")
			}
		})
	}
}
