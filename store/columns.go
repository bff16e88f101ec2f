package store

import "fmt"

// TextColumns are the columns of all tables that hold text, by table: for those who
// look through the database for something.
func (tx *Tx) TextColumns() (map[string][]string, error) {
	statement := `SELECT m.name, p.name FROM sqlite_master m, pragma_table_info(m.name) p
		WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%' AND p.type LIKE 'TEXT%' ORDER BY m.name, p.cid`
	if _, ok := tx.db.engine.(*postgresEngine); ok {
		// The catalogue has all tables. The information schema leaves out those that the
		// user may not read, of which nobody would learn that they were not looked at.
		statement = `SELECT c.relname::text, a.attname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
			WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
			  AND a.atttypid IN ('text'::regtype, 'varchar'::regtype) ORDER BY c.relname, a.attnum`
	}
	rows, err := tx.Query(statement)
	if err != nil {
		return nil, fmt.Errorf("store: list the columns: %w", err)
	}
	defer rows.Close()
	columns := map[string][]string{}
	for rows.Next() {
		var table, column string
		if err := rows.Scan(&table, &column); err != nil {
			return nil, err
		}
		columns[table] = append(columns[table], column)
	}
	return columns, rows.Err()
}
