package store_test

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

func TestValuesGoInAndOut(t *testing.T) {
	type name string
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		count := int32(-7)
		do(t, db, `INSERT INTO item (name, count, done, weight, body) VALUES ($1, $2, $3, $4, $5)`,
			name("ä"), &count, true, 0.5, json.RawMessage(`{"b":1,  "a":2}`))
		do(t, db, `INSERT INTO item (name, count, done, weight, body) VALUES ($5, $4, $3, $2, $1)`,
			[]string{"x", `"y"`}, (*float64)(nil), false, uint16(9), "list")
		do(t, db, `INSERT INTO item (name, body) VALUES ($1, $1)`, "twice")
		err := db.View(t.Context(), func(tx *store.Tx) error {
			var (
				n      name
				count  int32
				done   bool
				weight *float64
				body   json.RawMessage
				list   []string
			)
			const q = `SELECT name, count, done, weight, body FROM item WHERE name = $1`
			if err := tx.QueryRow(q, "ä").Scan(&n, &count, &done, &weight, &body); err != nil {
				return err
			}
			equal(t, "ä", fmt.Sprintln(n, count, done, *weight, string(body)), "ä -7 true 0.5 {\"b\":1,  \"a\":2}\n")
			if err := tx.QueryRow(q, "list").Scan(&n, &count, &done, &weight, &list); err != nil {
				return err
			}
			equal(t, "list", fmt.Sprintln(n, count, done, weight, list), "list 9 false <nil> [x \"y\"]\n")
			if err := tx.QueryRow(`SELECT body FROM item WHERE name = $1 AND body = $2`, "twice", []byte("twice")).Scan(&n); err != nil {
				return err
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// What a statement of many shapes leaves prepared is bounded.
func TestManyStatements(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := db.View(t.Context(), func(tx *store.Tx) error {
			for i := range 2500 {
				var n int
				if err := tx.QueryRow(fmt.Sprintf(`SELECT %d`, i)).Scan(&n); err != nil || n != i {
					return fmt.Errorf("got %d: %w", n, err)
				}
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}

func TestArgumentKinds(t *testing.T) {
	type (
		text    string
		number  uint8
		real    float32
		flag    bool
		names   []text
		content []byte
	)
	null, s, n := sql.NullString{}, "s", text("n")
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		for i, test := range []struct {
			column string
			value  any
			want   string
		}{
			{"body", nil, "NULL"}, {"body", null, "NULL"}, {"body", (*string)(nil), "NULL"}, {"body", []byte(nil), "NULL"}, {"body", (*sql.NullString)(nil), "NULL"},
			{"body", &s, "s"}, {"body", &n, "n"}, {"body", content("c"), "c"}, {"body", sql.NullString{String: "v", Valid: true}, "v"},
			{"body", []string(nil), "[]"}, {"body", names{"a", "<"}, `["a","<"]`},
			{"count", number(7), "7"}, {"count", int8(-7), "-7"}, {"weight", real(0.5), "0.5"}, {"done", flag(true), "true"},
		} {
			name := fmt.Sprint(i)
			do(t, db, `INSERT INTO item (name, `+test.column+`) VALUES ($1, $2)`, name, test.value)
			if err := db.View(t.Context(), func(tx *store.Tx) error {
				var got sql.NullString
				if test.column == "done" {
					var b bool
					err := tx.QueryRow(`SELECT done FROM item WHERE name = $1`, name).Scan(&b)
					equal(t, "done", b, test.want)
					return err
				}
				err := tx.QueryRow(`SELECT `+test.column+` FROM item WHERE name = $1`, name).Scan(&got)
				if !got.Valid {
					got.String = "NULL"
				}
				equal(t, fmt.Sprintf("%T", test.value), got.String, test.want)
				return err
			}); err != nil {
				t.Error(err)
			}
		}
		var list []string
		err := db.View(t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(`SELECT body FROM item WHERE name = '5'`).Scan(&list)
		})
		if err == nil || !strings.Contains(err.Error(), "JSON array") {
			t.Errorf("a text that is no list was read as %v, %v", list, err)
		}
	})
}

func TestArgumentsThatNoColumnTakes(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		for _, a := range []any{"a\x00b", "\xff", []byte{0}, []string{"\xff", "ok"}, time.Now(), struct{}{}, map[string]int{}, uint64(1) << 63} {
			err := db.Do(t.Context(), exec(`INSERT INTO item (name, body) VALUES ('a', $1)`, a))
			if err == nil {
				t.Errorf("%#v went in", a)
			}
			switch a.(type) {
			case string, []byte:
				if !errors.Is(err, store.ErrInvalidText) {
					t.Errorf("%#v: %v", a, err)
				}
			}
		}
		equal(t, "items", len(names(t, db)), 0)
	})
}

func TestManyKeysInOneStatement(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		var many []string
		for i := range 50_000 {
			many = append(many, fmt.Sprintf("i%05d", i))
		}
		do(t, db, `INSERT INTO item (name) SELECT value FROM json_each($1)`, many)
		err := db.View(t.Context(), func(tx *store.Tx) error {
			got, err := column(tx, `SELECT name FROM item WHERE name IN (SELECT value FROM json_each($1)) ORDER BY name`, []string{"i00007", "none", "i49999"})
			equal(t, "found", got, []string{"i00007", "i49999"})
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestTextIsBytewise(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		want := []string{"-", "A", "B", "_", "a", "b", "ä"}
		for _, n := range []string{"b", "A", "_", "ä", "a", "-", "B"} {
			do(t, db, `INSERT INTO item (name) VALUES ($1)`, n)
		}
		equal(t, "order", names(t, db), want)
		if !slices.IsSorted(want) {
			t.Error("Go has another order")
		}
		if err := db.View(t.Context(), func(tx *store.Tx) error {
			got, err := column(tx, `SELECT name FROM item WHERE name LIKE 'A%' OR name LIKE '\_' ESCAPE '\' ORDER BY name`)
			equal(t, "LIKE", got, []string{"A", "_"})
			return err
		}); err != nil {
			t.Error(err)
		}
	})
}
