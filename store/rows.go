package store

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
)

// ExecRows runs a statement that takes many rows at once, and returns how many
// rows it changed. The statement has the parameters of one row between marks,
// to be repeated for each:
//
//	INSERT INTO item (name, count) VALUES /*row*/($1, $2)/*row*/ ON CONFLICT DO NOTHING
//
//	UPDATE item SET count = v.column2
//	  FROM (VALUES /*row*/(CAST($1 AS TEXT), CAST($2 AS BIGINT))/*row*/) AS v WHERE name = v.column1
//
// There are no parameters outside the marks. Where VALUES is not what is
// inserted, PostgreSQL has to be told the types, as above. Each of rows has the
// values of one row.
func (tx *Tx) ExecRows(statement string, rows [][]any) (rowsAffected int64, err error) {
	for len(rows) > 0 {
		text, values, rest := chunk(statement, rows)
		n, err := tx.Exec(text, values...)
		if err != nil {
			return 0, err
		}
		rowsAffected += n
		rows = rest
	}
	return rowsAffected, nil
}

// QueryRows is ExecRows for a statement that returns rows, in no order: scan is
// called for each.
func (tx *Tx) QueryRows(statement string, rows [][]any, scan func(*Rows) error) error {
	for len(rows) > 0 {
		text, values, rest := chunk(statement, rows)
		got, err := tx.Query(text, values...)
		if err != nil {
			return err
		}
		for got.Next() {
			if err := scan(got); err != nil {
				return err
			}
		}
		if err := got.Err(); err != nil {
			return err
		}
		rows = rest
	}
	return nil
}

// ExecEach runs a statement once for each of rows, which are its arguments, and
// returns how many rows of the database were changed in all. It waits for the
// database once, not once for each. A statement that finds a row by its key is
// better run like this than joined with VALUES or a list: it is always found by
// its index, whatever the database believes of the size of a table.
func (tx *Tx) ExecEach(statement string, rows [][]any) (rowsAffected int64, err error) {
	return tx.each(statement, rows, nil)
}

// QueryEach is ExecEach for a statement that returns rows: scan is called for
// each of them, in the order of rows, with the index of the arguments.
func (tx *Tx) QueryEach(statement string, rows [][]any, scan func(i int, row Scanner) error) error {
	_, err := tx.each(statement, rows, scan)
	return err
}

// A Scanner is a row that can be read.
type Scanner interface{ Scan(dest ...any) error }

func (tx *Tx) each(statement string, rows [][]any, scan func(int, Scanner) error) (n int64, err error) {
	if len(rows) == 0 {
		return 0, nil
	}
	values := make([][]any, len(rows))
	for i, row := range rows {
		if values[i], err = tx.prepare(statement, row); err != nil {
			return 0, err
		}
	}
	var refused error // by scan
	read := func(i int, row Scanner) error {
		refused = scan(i, converted{row})
		return refused
	}
	if scan == nil {
		read = nil
	}
	n, err = tx.db.engine.each(tx.ctx, tx.session, tx.db.engine.text(statement), values, read)
	switch {
	case refused != nil:
		return 0, tx.refuse(fmt.Errorf("store: %s: %w", brief(statement), refused))
	case err != nil:
		return 0, tx.fail(statement, err)
	}
	return n, nil
}

// converted fills what a driver cannot.
type converted struct{ row Scanner }

func (c converted) Scan(dest ...any) error { return c.row.Scan(destinations(dest)...) }

const (
	maxChunk = 64

	// SQLite takes 32,766 parameters, PostgreSQL 65,535.
	maxParameters = 30_000
)

// chunk is the statement for the first of rows. It takes 64 of them, or 32, 16
// and so on down to one: few enough different texts for databases to keep them
// prepared.
func chunk(statement string, rows [][]any) (text string, values []any, rest [][]any) {
	n := maxChunk
	for n > len(rows) || n > 1 && n*len(rows[0]) > maxParameters {
		n /= 2
	}
	for _, row := range rows[:n] {
		values = append(values, row...)
	}
	return repeated(statement, n, len(rows[0])), values, rows[n:]
}

var repeatedTexts sync.Map // by repeatedKey

type repeatedKey struct {
	statement string
	n         int
}

// repeated is the statement for n rows of width values.
func repeated(statement string, n, width int) string {
	key := repeatedKey{statement, n}
	if text, ok := repeatedTexts.Load(key); ok {
		return text.(string)
	}
	parts := strings.Split(statement, "/*row*/")
	if len(parts) != 3 {
		panic(fmt.Sprintf("store: %s: a statement of many rows has two marks /*row*/", brief(statement)))
	}
	var b strings.Builder
	b.WriteString(parts[0])
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		renumber(&b, parts[1], i*width)
	}
	b.WriteString(parts[2])
	repeatedTexts.Store(key, b.String())
	return b.String()
}

// renumber writes row with its parameters counted from offset.
func renumber(b *strings.Builder, row string, offset int) {
	for {
		before, after, found := strings.Cut(row, "$")
		b.WriteString(before)
		if !found {
			return
		}
		digits := len(after) - len(strings.TrimLeft(after, "0123456789"))
		k, err := strconv.Atoi(after[:digits])
		if err != nil {
			panic(fmt.Sprintf("store: %s: a $ without a number", brief(row)))
		}
		fmt.Fprintf(b, "$%d", offset+k)
		row = after[digits:]
	}
}
