//go:build unix

package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/blob/gateway"
)

// BenchmarkCopy is what a copy costs that the gateway makes from one bucket to
// another, of a source whose SHA-256 it knows and of one whose it does not,
// beside a PUT of as many bytes by the same client.
func BenchmarkCopy(b *testing.B) {
	for _, durable := range []bool{true, false} {
		for _, size := range []int{1 << 10, 1 << 20, 64 << 20} {
			for _, clients := range []int{1, 16} {
				for _, verb := range []string{"put", "copy", "copy-unknown"} {
					name := fmt.Sprintf("durable=%v/KiB=%d/clients=%d/%s", durable, size>>10, clients, verb)
					b.Run(name, func(b *testing.B) { copyOne(b, verb, durable, size, clients) })
				}
			}
		}
	}
}

func copyOne(b *testing.B, verb string, durable bool, size, clients int) {
	g, err := gateway.Start(b.Context(), gateway.Config{
		Directory: b.TempDir(), Listen: "127.0.0.1:0", AccessKeyID: "a", SecretAccessKey: "b", NoSync: !durable,
	})
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	s := must(blob.Open(b.Context(), g.Blob()))
	from, to := s.Bucket("from"), s.Bucket("to-bucket")
	for _, bucket := range []*blob.Bucket{from, to} {
		if err := bucket.Ensure(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	body := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	h := blob.Headers{ContentType: "text/plain", Metadata: map[string]string{"origin": "s3://from/dir/object"}}
	source := must(from.PutBytes(b.Context(), "dir/object", body, h))
	if verb == "copy-unknown" {
		id := must(from.StartMultipart(b.Context(), "dir/object", h))
		part := must(from.PutPart(b.Context(), "dir/object", id, 1, body))
		source = must(from.CompleteMultipart(b.Context(), "dir/object", id, []blob.Part{part}))
	}
	one := func(ctx context.Context, key string) error {
		if verb == "put" {
			_, err := to.PutBytes(ctx, key, body, h)
			return err
		}
		_, err := to.Copy(ctx, key, from, "dir/object", source.ETag, h)
		return err
	}
	if err := one(b.Context(), "copies/0/object"); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	before := cpu(b)
	b.ResetTimer()
	var next atomic.Int64
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				if err := one(b.Context(), fmt.Sprintf("copies/%d/object", i)); err != nil {
					b.Error(err)
				}
			}
		})
	}
	group.Wait()
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op") // client and gateway
}
