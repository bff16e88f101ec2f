package queue

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/blob"
)

func TestLogsOfRunsThatHaveEnded(t *testing.T) {
	withArtifacts(t, func(t *testing.T, s *stage, _ *blob.Bucket) {
		for _, line := range []string{"create A", "create B", "create C", "claim w 2"} {
			s.do(strings.Fields(line))
		}
		since := now()
		for _, name := range []string{"public/logs/live_backing.log", "public/build.log.gz", "logs/out", "public/b"} {
			for _, run := range []string{"A/0", "B/0"} {
				if code, out := s.createArtifact(run, name, s3("text/plain")); code != 200 {
					t.Fatal(code, out)
				}
			}
		}
		s.createArtifact("A/0", "public/logs/live.log", map[string]any{"storageType": "link", "artifact": "public/logs/live_backing.log"})
		large := s3("text/plain")
		large["contentLength"] = 100 << 20
		s.createArtifact("A/0", "public/unfinished.log", large)
		all := func() (names []string) {
			t.Helper()
			for after := ""; ; {
				list, next, err := s.queue.Logs(t.Context(), since, after, 1)
				if err != nil {
					t.Fatal(err)
				}
				for _, l := range list {
					if l.Key != fmt.Sprintf("%s/%d/%s", l.TaskID, l.RunID, l.Name) || l.Object != "" || l.Resolved < since {
						t.Errorf("%+v", l)
					}
					names = append(names, l.Name)
				}
				if next == "" {
					return names
				}
				after = next
			}
		}
		if got := all(); len(got) > 0 {
			t.Errorf("of runs at work: %v", got)
		}
		s.do(strings.Fields("completed A/0"))
		if got := strings.Join(all(), " "); got != "logs/out public/build.log.gz public/logs/live_backing.log" {
			t.Errorf("of A: %s", got)
		}
		s.do(strings.Fields("failed B/0"))
		if got := all(); len(got) != 6 {
			t.Errorf("of both: %v", got)
		}
		time.Sleep(2 * time.Millisecond)
		since = now()
		if got := all(); len(got) > 0 {
			t.Errorf("of later ones: %v", got)
		}
	})
}
