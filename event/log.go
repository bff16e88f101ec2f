package event

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// # The log
//
// A batch is a row of what was published together. A place is a row that gives
// a batch its positions. The two are apart since a batch is large: where a row
// is changed, PostgreSQL writes all of it again.
//
// Batches have ids, which the database hands out before a transaction commits;
// so a lower one can appear after a higher one, or never. The loop that places
// batches remembers the highest id it has seen, the mark, and which below it
// were missing, and looks each time for those as well as for what is above.
// That keeps the order: where one transaction began after another had
// committed, its id is higher, and a look that finds its batch finds the
// other's too. A transaction that was undone leaves its id missing for ever, so
// one is given up after maxMissing or when there are too many. Should its
// transaction have been at work all that time, what it published is found by
// the loop event.recover: late, and not lost.
//
// SQLite gives a row the number after the highest there is, so the highest is
// never deleted (expire).
const (
	maxBatchSize  = 1 << 20 // bytes; a batch ends once it is larger
	maxBatchCount = 1000

	batch      = 500     // messages that are handled at once
	readSize   = 4 << 20 // bytes that are read at once, and a batch more
	placeLimit = 2000    // batches placed in a transaction

	maxMissing      = 5 * time.Minute
	maxMissingCount = 2000

	maxKey = 255 // bytes of a routing key, as in AMQP
)

// encode writes the four lines of a message.
func (o *Outgoing) encode(text *strings.Builder) error {
	if o.Exchange == "" || len(o.Exchange) > maxKey || strings.Contains(o.Exchange, "\n") {
		return fmt.Errorf("the exchange %.300q is not a line of 1 to %d bytes", o.Exchange, maxKey)
	}
	if len(o.RoutingKey) > maxKey || strings.Contains(o.RoutingKey, "\n") {
		return fmt.Errorf("the routing key %.300q has %d bytes; it can be one line of %d", o.RoutingKey, len(o.RoutingKey), maxKey)
	}
	cc := []byte("[]")
	if len(o.CC) > 0 {
		var err error
		if cc, err = json.Marshal(o.CC); err != nil {
			return err
		}
	}
	text.WriteString(o.Exchange)
	text.WriteByte('\n')
	text.WriteString(o.RoutingKey)
	text.WriteByte('\n')
	text.Write(cc)
	text.WriteByte('\n')
	return json.NewEncoder(text).Encode(o.Payload) // and the end of the line
}

// decode appends the messages of a batch, the last of which has the position
// last.
func decode(list []*entry, text []byte, count int, last int64, created timestamp.Time) ([]*entry, error) {
	messages := make([]entry, count)
	var lines [4][]byte
	for i := range messages {
		for k := range lines {
			end := bytes.IndexByte(text, '\n')
			if end < 0 {
				return nil, fmt.Errorf("event: the batch that ends at position %d breaks off in message %d of %d", last, i+1, count)
			}
			lines[k], text = text[:end:end], text[end+1:]
		}
		m := &messages[i].Message
		m.Position = last - int64(count-1-i)
		m.Exchange, m.RoutingKey = string(lines[0]), string(lines[1])
		m.Payload, m.Created = lines[3], created
		m.CC = []string{}
		if string(lines[2]) != "[]" {
			if err := json.Unmarshal(lines[2], &m.CC); err != nil {
				return nil, fmt.Errorf("event: the further keys of message %d: %w", m.Position, err)
			}
		}
		list = append(list, &messages[i])
	}
	return list, nil
}

// place appends committed messages to the log. The row of the head is locked
// for the length of the transaction, so even two replicas that both believe they
// hold the lease number messages one after the other. What this process has
// published goes into its tail without being read.
func (b *Bus) place(ctx context.Context) (more bool, err error) {
	b.placing.Lock()
	defer b.placing.Unlock()
	b.stash.hold()
	feed := feed{tail: b.tail}
	defer feed.end()
	var start, mark int64
	var missing missingList
	var list []placed
	err = b.db.Do(ctx, func(tx *store.Tx) error {
		feed.end()
		list = nil
		if err := tx.QueryRow(`SELECT position, mark, missing FROM event_head WHERE name = 'head' /*for update*/`).Scan(&start, &mark, &missing); err != nil {
			return err
		}
		rows, err := tx.Query(`
			INSERT INTO event_place (position, batch, size)
			SELECT $1 + CAST(sum(count) OVER (ORDER BY id) AS BIGINT), id, size
			  FROM (SELECT id, count, size FROM (SELECT id, count, size FROM event_batch WHERE id > $2 ORDER BY id LIMIT $3) AS later
			        UNION ALL
			        SELECT id, count, size FROM event_batch WHERE id IN (SELECT CAST(value AS BIGINT) FROM json_each($4))) AS found
			RETURNING position, batch`, start, mark, placeLimit, missing.ids())
		if err != nil {
			return err
		}
		found := map[int64]bool{}
		later := 0
		head, highest := start, mark
		for rows.Next() {
			var p placed
			if err := rows.Scan(&p.position, &p.batch); err != nil {
				return err
			}
			list = append(list, p)
			found[p.batch] = true
			head, highest = max(head, p.position), max(highest, p.batch)
			if p.batch > mark {
				later++
			}
		}
		if err := rows.Err(); err != nil || len(found) == 0 {
			return err
		}
		missing = missing.next(found, mark, highest, b.absent)
		mark = highest
		more = later == placeLimit
		tx.Wake(topicPlaced, store.Everybody)
		feed.begin()
		return tx.Later(`UPDATE event_head SET position = $1, mark = $2, missing = $3 WHERE name = 'head'`, []any{head, mark, missing.text()}, nil)
	})
	if err != nil {
		return more, err
	}
	if feed.begun {
		feed.add(start, b.stash.take(start, list))
	}
	b.stash.forget(mark, missing)
	return more, nil
}

// recover has the messages placed that place has given up. It looks for them
// beside everybody else, since it looks through the whole log.
func (b *Bus) recover(ctx context.Context) (more bool, err error) {
	var head, mark int64
	var late []int64
	err = b.db.View(ctx, func(tx *store.Tx) error {
		var missing missingList
		if err := tx.QueryRow(`SELECT position, mark, missing FROM event_head WHERE name = 'head'`).Scan(&head, &mark, &missing); err != nil {
			return err
		}
		rows, err := tx.Query(`
			SELECT b.id FROM event_batch AS b LEFT JOIN event_place AS p ON p.batch = b.id
			 WHERE p.batch IS NULL AND b.id <= $1 ORDER BY b.id LIMIT $2`, mark, maxMissingCount/2)
		if err != nil {
			return err
		}
		late = nil
		for rows.Next() {
			var id int64
			if err := rows.Scan(&id); err != nil {
				return err
			}
			if !missing.has(id) {
				late = append(late, id)
			}
		}
		return rows.Err()
	})
	if err != nil || len(late) == 0 {
		return false, err
	}
	b.log.Warn("placing messages of transactions that took longer than is waited for", "batches", len(late))
	err = b.db.Do(ctx, func(tx *store.Tx) error {
		var missing missingList
		if err := tx.QueryRow(`SELECT missing FROM event_head WHERE name = 'head' /*for update*/`).Scan(&missing); err != nil {
			return err
		}
		rows, err := tx.Query(`SELECT batch FROM event_place WHERE position > $1`, head)
		if err != nil {
			return err
		}
		placed := map[int64]bool{}
		for rows.Next() {
			var id int64
			if err := rows.Scan(&id); err != nil {
				return err
			}
			placed[id] = true
		}
		if err := rows.Err(); err != nil {
			return err
		}
		for _, id := range late {
			if !placed[id] && !missing.has(id) {
				missing = append(missing, absence{id, timestamp.Now()})
			}
		}
		_, err = tx.Exec(`UPDATE event_head SET missing = $1 WHERE name = 'head'`, missing.text())
		return err
	})
	if err != nil {
		return false, err
	}
	_, err = b.place(ctx)
	return true, err
}

// A missingList is ids of batches that were not there when a higher one was.
type missingList []absence

type absence struct {
	id    int64
	since timestamp.Time
}

// next is what is missing once found was placed and the mark has moved. Absent
// is since when this process has missed what. It counts instead of the time in
// the list, as the wall clock may jump, and what is given up too early comes out
// of order.
func (l missingList) next(found map[int64]bool, mark, highest int64, absent map[int64]time.Time) (rest missingList) {
	now := timestamp.Now()
	for _, a := range l {
		since, known := absent[a.id]
		if !known {
			since = time.Now()
			absent[a.id] = since
		}
		if !found[a.id] && time.Since(since) < maxMissing {
			rest = append(rest, a)
		}
	}
	// A database that jumps in its numbers has nothing between them.
	for id := max(mark+1, highest-maxMissingCount-int64(len(found))); id < highest; id++ {
		if !found[id] {
			rest = append(rest, absence{id, now})
			absent[id] = time.Now()
		}
	}
	rest = rest[max(0, len(rest)-maxMissingCount):]
	if len(absent) > len(rest) { // which is what takes time
		maps.DeleteFunc(absent, func(id int64, _ time.Time) bool { return !rest.has(id) })
	}
	return rest
}

func (l missingList) ids() []string {
	ids := make([]string, len(l))
	for i, a := range l {
		ids[i] = strconv.FormatInt(a.id, 10)
	}
	return ids
}

func (l missingList) has(id int64) bool {
	return slices.ContainsFunc(l, func(a absence) bool { return a.id == id })
}

// text is the JSON [id, since, id, since, …].
func (l missingList) text() string {
	numbers := make([]int64, 0, 2*len(l))
	for _, a := range l {
		numbers = append(numbers, a.id, int64(a.since))
	}
	text, _ := json.Marshal(numbers) // which numbers always can be
	return string(text)
}

// Scan reads a column of such text.
func (l *missingList) Scan(src any) error {
	text, ok := src.(string)
	if !ok {
		return fmt.Errorf("event: a list of missing batches is text, not a %T", src)
	}
	var numbers []int64
	if err := json.Unmarshal([]byte(text), &numbers); err != nil || len(numbers)%2 != 0 {
		return fmt.Errorf("event: %.100q is no list of missing batches: %w", text, err)
	}
	*l = nil
	for pair := range slices.Chunk(numbers, 2) {
		*l = append(*l, absence{pair[0], timestamp.Time(pair[1])})
	}
	return nil
}

// read returns up to limit messages after a position, or as many as are read at
// once. more tells whether there may be more.
func (b *Bus) read(ctx context.Context, after int64, limit int) (list []*entry, more bool, err error) {
	err = b.db.ViewOnce(ctx, func(tx *store.Tx) error {
		list = nil
		rows, err := tx.Query(`
			SELECT s.position, b.count, b.created, b.messages
			  FROM (SELECT position, batch, sum(size) OVER (ORDER BY position) - size AS above
			          FROM (SELECT position, batch, size FROM event_place WHERE position > $1 ORDER BY position LIMIT $2) AS p) AS s
			  JOIN event_batch AS b ON b.id = s.batch
			 WHERE s.above < $3 ORDER BY s.position`, after, limit, readSize)
		if err != nil {
			return err
		}
		size := 0
		for rows.Next() {
			var position int64
			var count int
			var created timestamp.Time
			var text []byte
			if err := rows.Scan(&position, &count, &created, &text); err != nil {
				return err
			}
			size += len(text)
			if list, err = decode(list, text, count, position, created); err != nil {
				return err
			}
		}
		if len(list) > 0 { // the first batch may have begun before
			list = list[max(0, after+1-list[0].Position):]
		}
		more = len(list) >= limit || size >= readSize
		list = list[:min(len(list), limit)]
		return rows.Err()
	})
	return list, more, err
}

// span returns the oldest position that is still kept and the newest.
func (b *Bus) span(ctx context.Context) (oldest, head int64, err error) {
	err = b.db.ViewOnce(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(`SELECT oldest, position FROM event_head WHERE name = 'head'`).Scan(&oldest, &head)
	})
	return oldest, head, err
}

// expire deletes the oldest batches, but never the last one.
func (b *Bus) expire(ctx context.Context) (more bool, err error) {
	const limit = 2000
	// The cursor of a subscriber that is no more does not count.
	readers := []string{}
	for _, s := range b.subscribers {
		readers = append(readers, s.name)
	}
	old := timestamp.Now().Add(-Retention)
	err = b.db.Do(ctx, func(tx *store.Tx) error {
		more = false
		var oldest, mark, read int64
		if err := tx.QueryRow(`
			SELECT h.oldest, h.mark, coalesce((SELECT min(position) FROM event_cursor WHERE name IN (SELECT value FROM json_each($1))), h.position)
			  FROM event_head AS h WHERE h.name = 'head'`, readers).Scan(&oldest, &mark, &read); err != nil {
			return err
		}
		rows, err := tx.Query(`
			SELECT p.position, p.batch, b.created FROM event_place AS p JOIN event_batch AS b ON b.id = p.batch
			 WHERE p.position >= $1 AND p.position <= $2 ORDER BY p.position LIMIT $3`, oldest, read, limit)
		if err != nil {
			return err
		}
		last, n := int64(0), 0
		for rows.Next() {
			var position, id int64
			var created timestamp.Time
			if err := rows.Scan(&position, &id, &created); err != nil {
				return err
			}
			if created >= old || id == mark {
				break
			}
			last, n = position, n+1
		}
		if err := rows.Close(); err != nil || n == 0 {
			return err
		}
		more = n == limit
		for _, statement := range []string{
			`DELETE FROM event_batch WHERE id IN (SELECT batch FROM event_place WHERE position <= $1)`,
			`DELETE FROM event_place WHERE position <= $1`,
			`UPDATE event_head SET oldest = $1 + 1 WHERE name = 'head' AND oldest <= $1`,
		} {
			if _, err := tx.Exec(statement, last); err != nil {
				return err
			}
		}
		return nil
	})
	return more, err
}
