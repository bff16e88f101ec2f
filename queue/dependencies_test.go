package queue

import (
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// One record that cannot be read holds up what depends on it, and nothing else.
func TestAFailureOfOneGraphDoesNotStopTheOthers(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		for _, line := range []string{"create A", "create B", "create X deps=A", "create Y deps=B"} {
			s.do(strings.Fields(line))
		}
		set := func(statement string) {
			t.Helper()
			if err := db.Do(t.Context(), func(tx *store.Tx) error {
				n, err := tx.Exec(statement, s.id("X"))
				if n != 1 {
					t.Errorf("%d rows: %s", n, statement)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		set(`UPDATE task SET runs = 'broken' WHERE task_id = $1`)
		for _, line := range []string{"claim w 2", "completed A/0", "completed B/0"} {
			s.do(strings.Fields(line))
		}
		time.Sleep(time.Second)
		if got := s.do(strings.Fields("status Y")); got != "pending; 0 scheduled pending" {
			t.Error("another graph:", got)
		}
		if n := s.count(`SELECT count(*) FROM resolution WHERE failures = 1`); n != 1 {
			t.Errorf("%d resolutions are set aside", n)
		}
		time.Sleep(time.Hour)
		if n := s.count(`SELECT failures FROM resolution`); n < 8 || n > 20 {
			t.Errorf("it was tried %d times within an hour", n)
		}
		set(`UPDATE task SET runs = '[]' WHERE task_id = $1`)
		time.Sleep(lastRetry + time.Minute)
		if got := s.do(strings.Fields("status X")); got != "pending; 0 scheduled pending" {
			t.Error("after it was repaired:", got)
		}
		if n := s.count(`SELECT count(*) FROM resolution`); n != 0 {
			t.Errorf("%d resolutions are left", n)
		}
	})
}
