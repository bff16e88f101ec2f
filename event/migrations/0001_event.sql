-- Messages, from the transaction that causes them until nobody needs them.
-- A message gets its position in the log only after it is committed, from one
-- loop: ids are handed out before a commit, so a reader that followed them
-- could step over one whose transaction was still open.
CREATE TABLE event (
  id          INTEGER /*identity*/ PRIMARY KEY,
  position    BIGINT,
  exchange    TEXT NOT NULL,
  routing_key TEXT NOT NULL,
  cc          TEXT NOT NULL,   -- JSON list of further routing keys
  payload     TEXT NOT NULL,   -- JSON
  created     BIGINT NOT NULL
);
CREATE UNIQUE INDEX event_position ON event (position);
CREATE INDEX event_unplaced ON event (id) WHERE position IS NULL;

-- How far each durable subscriber has read; 'head' is the last position given.
CREATE TABLE event_cursor (
  name     TEXT PRIMARY KEY,
  position BIGINT NOT NULL
);
INSERT INTO event_cursor (name, position) VALUES ('head', 0);
