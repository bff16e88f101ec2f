-- What one transaction publishes is one row, and is written once: its place in
-- the log is a row of its own, so that placing it does not write it again.

-- Renaming keeps out every other transaction until this one is committed: no
-- message comes into the old table after it was copied.
ALTER TABLE event RENAME TO event_old;

-- Messages that were published together. Each is four lines: exchange, routing
-- key, JSON list of further keys, JSON payload.
CREATE TABLE event_batch (
  id       INTEGER /*identity*/ PRIMARY KEY,
  count    BIGINT NOT NULL,
  size     BIGINT NOT NULL,   -- of messages, in bytes
  created  BIGINT NOT NULL,
  messages TEXT NOT NULL
);

-- The log: a batch has the positions up to this one. They are given, not
-- generated; the mark makes them the numbers of the rows on SQLite.
CREATE TABLE event_place (
  position INTEGER /*identity*/ PRIMARY KEY,
  batch    BIGINT NOT NULL,
  size     BIGINT NOT NULL
);

-- One row: how far the log goes, and how far batches were looked through.
CREATE TABLE event_head (
  name     TEXT PRIMARY KEY,
  position BIGINT NOT NULL,   -- the last one given
  oldest   BIGINT NOT NULL,   -- the first one kept
  mark     BIGINT NOT NULL,   -- the highest id of a batch that was placed
  missing  TEXT NOT NULL      -- JSON: lower ids that were not there, and since when
);

INSERT INTO event_batch (count, size, created, messages)
SELECT 1, length(exchange) + length(routing_key) + length(cc) + length(payload) + 4, created,
       exchange || '
' || routing_key || '
' || cc || '
' || payload || '
'
  FROM event_old WHERE position IS NOT NULL ORDER BY position;

INSERT INTO event_place (position, batch, size)
SELECT position, row_number() OVER (ORDER BY position), length(exchange) + length(routing_key) + length(cc) + length(payload) + 4
  FROM event_old WHERE position IS NOT NULL;

INSERT INTO event_head (name, position, oldest, mark, missing)
SELECT 'head', position,
       (SELECT coalesce(min(p.position), h.position + 1) FROM event_place AS p),
       (SELECT coalesce(max(p.batch), 0) FROM event_place AS p), '[]'
  FROM event_cursor AS h WHERE name = 'head';

INSERT INTO event_batch (count, size, created, messages)
SELECT 1, length(exchange) + length(routing_key) + length(cc) + length(payload) + 4, created,
       exchange || '
' || routing_key || '
' || cc || '
' || payload || '
'
  FROM event_old WHERE position IS NULL ORDER BY id;

DROP TABLE event_old;
DELETE FROM event_cursor WHERE name = 'head';
