-- What workers are made from: a pool can have several, each with a breaker of
-- its own. Those that are not current any more stay archived, for the workers
-- and errors that name them.
CREATE TABLE launch_config (
  worker_pool_id   TEXT /*bytewise*/ NOT NULL,
  launch_config_id TEXT /*bytewise*/ NOT NULL,
  place            BIGINT  NOT NULL,               -- in the order of the definition
  config           TEXT    NOT NULL,               -- JSON
  capacity         BIGINT  NOT NULL DEFAULT 1,     -- least of a worker
  canary           BIGINT  NOT NULL DEFAULT 0,     -- most workers before one has proven it; 0: no limit
  archived         BOOLEAN NOT NULL DEFAULT FALSE,
  created          BIGINT  NOT NULL,
  last_modified    BIGINT  NOT NULL,
  proven           BOOLEAN NOT NULL DEFAULT FALSE,
  failures         BIGINT  NOT NULL DEFAULT 0,     -- failed starts in a row
  start_after      BIGINT  NOT NULL DEFAULT 0,     -- no start before
  PRIMARY KEY (worker_pool_id, launch_config_id)
);
INSERT INTO launch_config (worker_pool_id, launch_config_id, place, config, created, last_modified, failures, start_after)
  SELECT worker_pool_id, launch_config_id, 0, config, created, last_modified, failures, start_after FROM worker_pool;
ALTER TABLE worker_pool DROP COLUMN launch_config_id;
ALTER TABLE worker_pool DROP COLUMN failures;
ALTER TABLE worker_pool DROP COLUMN start_after;
ALTER TABLE worker_pool ADD COLUMN statistics TEXT NOT NULL DEFAULT ''; -- JSON: what has been learnt about it

-- A request for workers that may have been made: written before the call, gone
-- with its answer.
CREATE TABLE intent (
  intent_id        TEXT /*bytewise*/ PRIMARY KEY,  -- what the provider tells repetitions by
  worker_pool_id   TEXT /*bytewise*/ NOT NULL,
  provider_id      TEXT   NOT NULL,
  launch_config_id TEXT   NOT NULL,                -- '': several
  workers          BIGINT NOT NULL,
  capacity         BIGINT NOT NULL,
  request          TEXT   NOT NULL,                -- JSON, the provider's
  created          BIGINT NOT NULL,
  attempts         BIGINT NOT NULL DEFAULT 0,      -- calls whose answer is not known
  next_attempt     BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX intent_pool ON intent (worker_pool_id);

ALTER TABLE worker DROP COLUMN started;
ALTER TABLE worker ADD COLUMN intent_id TEXT NOT NULL DEFAULT '';
ALTER TABLE worker ADD COLUMN market  TEXT    NOT NULL DEFAULT ''; -- where it was bought
ALTER TABLE worker ADD COLUMN price   BIGINT  NOT NULL DEFAULT 0;  -- of an hour, in millionths of a dollar
ALTER TABLE worker ADD COLUMN facts   TEXT    NOT NULL DEFAULT ''; -- JSON, the provider's
ALTER TABLE worker ADD COLUMN drained BOOLEAN NOT NULL DEFAULT FALSE; -- the queue gives it nothing any more
ALTER TABLE worker ADD COLUMN ends    BIGINT  NOT NULL DEFAULT 0;  -- when its provider takes it away

-- What was decided about pools and why, for a while.
CREATE TABLE decision (
  worker_pool_id TEXT /*bytewise*/ NOT NULL,
  at             BIGINT NOT NULL,
  record         TEXT   NOT NULL, -- JSON
  PRIMARY KEY (worker_pool_id, at)
);
CREATE INDEX decision_at ON decision (at);
