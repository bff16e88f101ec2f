package secrets

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

func TestAllSecretsThatAreGood(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		old := seal.NewKey()
		w := newWorld(t, db, old)
		w.set("lost", `{"v": "lost"}`)
		w.restart(seal.NewKey())
		w.want(200, "PUT", at("short"), body(`{"v": "short"}`, time.Minute))
		for i := range 2 * resealBatch {
			w.set(fmt.Sprint("s", i), fmt.Sprintf(`{"v": %d}`, i))
		}
		time.Sleep(2 * time.Minute)
		got := map[string]string{}
		if err := w.Each(t.Context(), func(name string, value json.RawMessage) { got[name] = string(value) }); err != nil {
			t.Fatal(err)
		}
		if len(got) != 2*resealBatch || got["short"] != "" || got["lost"] != "" {
			t.Errorf("%d of them: %v", len(got), got)
		}
	})
}
