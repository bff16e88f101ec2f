-- The outbox: a message that is to be sent, until it was, or until it turned
-- out that it will not be. The content is JSON of what the sender needs.
CREATE TABLE notify_message (
  message_id TEXT /*bytewise*/ PRIMARY KEY,  -- a slug; receivers tell a repetition by it
  kind       TEXT   NOT NULL,                -- email, matrix-room, slack-channel
  address    TEXT   NOT NULL,
  mailbox    TEXT   NOT NULL,                -- the address as compared
  content    TEXT   NOT NULL,
  digest     TEXT   NOT NULL,
  created    BIGINT NOT NULL,
  due        BIGINT NOT NULL,                -- next attempt; while one is under way, when it counts as lost
  attempts   BIGINT NOT NULL,
  problem    TEXT   NOT NULL                 -- of the last attempt
);
CREATE INDEX notify_message_due ON notify_message (kind, due);
CREATE INDEX notify_message_mailbox ON notify_message (kind, mailbox);
CREATE INDEX notify_message_created ON notify_message (created);

-- What was accepted lately, so that it is not accepted again.
CREATE TABLE notify_recent (
  digest TEXT /*bytewise*/ PRIMARY KEY,
  since  BIGINT NOT NULL
);
CREATE INDEX notify_recent_since ON notify_recent (since);

-- How many messages an address got in the period that began at since.
CREATE TABLE notify_rate (
  kind    TEXT   NOT NULL,
  mailbox TEXT /*bytewise*/ NOT NULL,
  since   BIGINT NOT NULL,
  messages BIGINT NOT NULL,
  PRIMARY KEY (kind, mailbox)
);
CREATE INDEX notify_rate_since ON notify_rate (since);

CREATE TABLE notify_denylist (
  kind    TEXT /*bytewise*/ NOT NULL,
  mailbox TEXT /*bytewise*/ NOT NULL,
  address TEXT   NOT NULL,                   -- as it was put on the list
  created BIGINT NOT NULL,
  PRIMARY KEY (kind, mailbox)
);

-- One row: the last event about a task whose notifications are in the outbox.
-- It moves in the transaction that writes them, so an event that is delivered
-- again causes none.
CREATE TABLE notify_progress (position BIGINT NOT NULL);
INSERT INTO notify_progress (position) VALUES (0);
