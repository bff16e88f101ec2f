package secrets

import (
	"context"
	"encoding/json"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Each calls f with every secret that has not expired, so that its value can be
// looked for where it should not be. Nothing of it is to be kept, or told. One that
// cannot be opened is left out, which the log tells.
func (s *Secrets) Each(ctx context.Context, f func(name string, value json.RawMessage)) error {
	for after := ""; ; {
		sealed := map[string]string{}
		var order []string
		err := s.db.View(ctx, func(tx *store.Tx) error {
			clear(sealed)
			order = nil
			rows, err := tx.Query(`SELECT name, sealed FROM secret WHERE name > $1 AND expires > $2 AND key_id <> '' ORDER BY name LIMIT $3`,
				after, timestamp.Now(), resealBatch)
			if err != nil {
				return err
			}
			for rows.Next() {
				var name, text string
				if err := rows.Scan(&name, &text); err != nil {
					return err
				}
				sealed[name] = text
				order = append(order, name)
			}
			return rows.Err()
		})
		if err != nil || len(order) == 0 {
			return err
		}
		for _, name := range order {
			value, err := s.open(name, sealed[name])
			if err != nil {
				s.log.Error("a secret is left out", "err", err)
				continue
			}
			f(name, value)
		}
		after = order[len(order)-1]
	}
}
