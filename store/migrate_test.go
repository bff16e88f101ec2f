package store_test

import (
	"embed"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

func files(pairs ...string) fs.FS {
	m := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return m
}

func TestMigrationsRunOnceAndInOrder(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		first := []string{"0001_a.sql", `
			-- A comment; with a semicolon, and 'a quote.
			CREATE TABLE a (n TEXT);; /* another; 'one */
			INSERT INTO a VALUES ('1;'), ('it''s'), ('--')`}
		second := []string{"sub/0002_b.sql", `INSERT INTO a SELECT n || '!' FROM a;`}
		for range 2 {
			if err := db.Migrate(t.Context(), "one", files(first...)); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := db.Migrate(t.Context(), "one", files(append(first, second...)...)); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.Migrate(t.Context(), "two", files("0001_a.sql", "CREATE TABLE b (n TEXT)")); err != nil {
			t.Fatal(err)
		}
		db.View(t.Context(), func(tx *store.Tx) error {
			got, err := column(tx, `SELECT n FROM a ORDER BY n /*bytewise*/`)
			equal(t, "rows", got, []string{"--", "--!", "1;", "1;!", "it's", "it's!"})
			return err
		})
	})
}

func TestMigrateRefuses(t *testing.T) {
	const one, two, four = "0001_one.sql", "0002_two.sql", "0004_four.sql"
	for name, test := range map[string]struct {
		before, now fs.FS
		want        string
	}{
		"what a newer binary migrated": {files(one, "SELECT 1", two, "SELECT 2"), files(one, "SELECT 1"), "newer"},
		"a migration put in between":   {files(one, "SELECT 1", four, "SELECT 4"), files(one, "SELECT 1", two, "SELECT 2", four, "SELECT 4"), "higher number"},
		"two with one number":          {nil, files(one, "SELECT 1", "0001_other.sql", "SELECT 1"), "same number"},
		"a name without a number":      {nil, files("tables.sql", "SELECT 1"), "NNNN_name.sql"},
		"none":                         {nil, embed.FS{}, "no NNNN_name.sql"},
		"a mistake":                    {nil, files(one, "SELECT 1; SELEC 2"), one},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Each(t, func(t *testing.T, db *store.DB) {
				if test.before != nil {
					if err := db.Migrate(t.Context(), "test", test.before); err != nil {
						t.Fatal(err)
					}
				}
				err := db.Migrate(t.Context(), "test", test.now)
				if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "migrate test") {
					t.Errorf("got %v, want it to say %q", err, test.want)
				}
			})
		})
	}
}

func TestFailedMigrationLeavesNothing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		bad := files("0001_a.sql", "CREATE TABLE a (n TEXT)", "0002_b.sql", "CREATE TABLE b (n TEXT); INSERT INTO none VALUES (1)")
		if err := db.Migrate(t.Context(), "test", bad); err == nil {
			t.Fatal("no error")
		}
		good := files("0001_a.sql", "CREATE TABLE a (n TEXT)", "0002_b.sql", "CREATE TABLE b (n TEXT)")
		if err := db.Migrate(t.Context(), "test", good); err != nil {
			t.Errorf("after the mistake was corrected: %v", err)
		}
	})
}

// Replicas that start together migrate one after the other.
func TestReplicasMigrateTogether(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, url string) {
		var wg sync.WaitGroup
		for range 4 {
			db := storetest.Open(t, url)
			for _, service := range []string{"one", "two"} {
				wg.Go(func() {
					if err := db.Migrate(t.Context(), service, files("0001_a.sql", "CREATE TABLE "+service+" (n TEXT)")); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
	})
}

// Statements that were prepared before a migration go on after it.
func TestMigrationUnderPreparedStatements(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, url string) {
		old, db := storetest.Open(t, url), storetest.Open(t, url)
		if err := db.Migrate(t.Context(), "test", files("0001_a.sql", "CREATE TABLE a (n BIGINT)", "0002_b.sql", "INSERT INTO a VALUES (1)")); err != nil {
			t.Fatal(err)
		}
		read := func(columns int) {
			t.Helper()
			if err := old.View(t.Context(), func(tx *store.Tx) error {
				dest := make([]any, columns)
				for i := range dest {
					dest[i] = new(int)
				}
				return tx.QueryRow(`SELECT * FROM a`).Scan(dest...)
			}); err != nil {
				t.Error(err)
			}
		}
		for range 8 {
			read(1)
		}
		do(t, db, `ALTER TABLE a ADD COLUMN m BIGINT NOT NULL DEFAULT 2`)
		for range 8 {
			read(2)
		}
	})
}
