package provisioner

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// A letterbox keeps what is sent.
type letterbox struct{ letters []string }

func (b *letterbox) Email(_ context.Context, address, subject, markdown string) error {
	b.letters = append(b.letters, address+"\n"+subject+"\n"+markdown)
	return nil
}

func TestTheOwnerOfAPoolIsToldOfErrors(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStillStage(t, db)
		box := &letterbox{}
		s.mail = box
		s.restart()
		report := func(pool string, mail bool, title string) {
			t.Helper()
			s.ask(200, "PUT", "/worker-pool/"+pool, map[string]any{
				"providerId": "cloud", "description": "d", "owner": "o@example.com", "emailOnError": mail, "config": map[string]any{"maxCapacity": 1},
			})
			if err := db.Do(t.Context(), func(tx *store.Tx) error {
				o, err := findPool(tx, pool)
				if err != nil {
					return err
				}
				_, err = s.prov.record(tx, o, fleet.Complaint{
					Kind: "worker-error", Title: title, Description: "```no space left```",
					Worker: &fleet.Worker{Ref: fleet.Ref{WorkerPoolID: pool, WorkerGroup: "g", WorkerID: "w"}},
				})
				return err
			}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		report("cloud/quiet", false, "nobody wants to know")
		report("cloud/loud", true, "the disk is full")
		report("cloud/loud", true, "and so is that of another worker") // soon after
		if len(box.letters) != 1 {
			t.Fatalf("sent: %q", box.letters)
		}
		for _, part := range []string{"o@example.com\n", "Worker pool cloud/loud: the disk is full\n", "'''no space left'''", "`g/w`", "taskfleet provisioner errors cloud/loud"} {
			if !strings.Contains(box.letters[0], part) {
				t.Errorf("it lacks %q: %s", part, box.letters[0])
			}
		}
	})
}
