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
	return tx.all(statement, chunks(statement, rows), nil)
}

// QueryRows is ExecRows for a statement that returns rows, in no order: scan is
// called for each.
func (tx *Tx) QueryRows(statement string, rows [][]any, scan func(Scanner) error) error {
	_, err := tx.all(statement, chunks(statement, rows), func(_ int, row Scanner) error { return scan(row) })
	return err
}

// LaterRows is QueryRows, or with a nil scan ExecRows, run as Later runs a
// statement.
func (tx *Tx) LaterRows(statement string, rows [][]any, scan func(Scanner) error) error {
	if scan == nil {
		return tx.laterAll(chunks(statement, rows), nil)
	}
	return tx.laterAll(chunks(statement, rows), func(_ int, row Scanner) error { return scan(row) })
}

// LaterEach is QueryEach, or with a nil scan ExecEach, run as Later runs a
// statement.
func (tx *Tx) LaterEach(statement string, rows [][]any, scan func(i int, row Scanner) error) error {
	return tx.laterAll(repeat(statement, rows), scan)
}

func (tx *Tx) laterAll(list []call, scan func(int, Scanner) error) error {
	for i, c := range list {
		var read func(Scanner) error
		if scan != nil {
			read = func(row Scanner) error { return scan(i, row) }
		}
		if err := tx.Later(c.text, c.args, read); err != nil {
			return err
		}
	}
	return nil
}

// ExecEach runs a statement once for each of rows, which are its arguments, and
// returns how many rows of the database were changed in all. It waits for the
// database once, not once for each. A statement that finds a row by its key is
// better run like this than joined with VALUES or a list: it is always found by
// its index, whatever the database believes of the size of a table.
func (tx *Tx) ExecEach(statement string, rows [][]any) (rowsAffected int64, err error) {
	return tx.all(statement, repeat(statement, rows), nil)
}

// QueryEach is ExecEach for a statement that returns rows: scan is called for
// each of them, in the order of rows, with the index of the arguments.
func (tx *Tx) QueryEach(statement string, rows [][]any, scan func(i int, row Scanner) error) error {
	_, err := tx.all(statement, repeat(statement, rows), scan)
	return err
}

// A Scanner is a row that can be read.
type Scanner interface{ Scan(dest ...any) error }

func repeat(statement string, rows [][]any) []call {
	list := make([]call, len(rows))
	for i, row := range rows {
		list[i] = call{statement, row}
	}
	return list
}

// all runs calls, all of which come of statement.
func (tx *Tx) all(statement string, list []call, scan func(int, Scanner) error) (n int64, err error) {
	if len(list) == 0 {
		return 0, nil
	}
	if err := tx.ready(statement); err != nil {
		return 0, err
	}
	for i, c := range list {
		values, err := tx.values(statement, c.args)
		if err != nil {
			return 0, err
		}
		list[i] = call{tx.db.engine.text(c.text), values}
	}
	var refused error // by scan
	read := func(i int, row Scanner) error {
		refused = scan(i, converted{row})
		return refused
	}
	if scan == nil {
		read = nil
	}
	n, err = tx.inner.all(tx.ctx, list, read)
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

// chunks are the calls of a statement for all of rows. Each is for 64 of them, or
// for 32, 16 and so on down to one: few enough different texts for databases to
// keep them prepared.
func chunks(statement string, rows [][]any) (list []call) {
	for n := maxChunk; len(rows) > 0; n /= 2 {
		width := len(rows[0])
		if n > 1 && n*width > maxParameters {
			continue
		}
		for ; n <= len(rows); rows = rows[n:] {
			values := make([]any, 0, n*width)
			for _, row := range rows[:n] {
				values = append(values, row...)
			}
			list = append(list, call{repeated(statement, n, width), values})
		}
	}
	return list
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
