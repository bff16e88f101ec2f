-- A pool. launch_config_id names what its workers are made from; failures and
-- start_after are the back-off after starts that failed.
CREATE TABLE worker_pool (
  worker_pool_id   TEXT /*bytewise*/ PRIMARY KEY,
  provider_id      TEXT    NOT NULL,
  description      TEXT    NOT NULL,
  owner            TEXT    NOT NULL,
  email_on_error   BOOLEAN NOT NULL,
  config           TEXT    NOT NULL,           -- JSON
  launch_config_id TEXT    NOT NULL,
  created          BIGINT  NOT NULL,
  last_modified    BIGINT  NOT NULL,
  failures         BIGINT  NOT NULL DEFAULT 0, -- failed starts in a row
  start_after      BIGINT  NOT NULL DEFAULT 0  -- no start before
);

-- A worker, from the intention to start it until the record of it expires.
-- Tokens and secrets are kept as hashes only.
CREATE TABLE worker (
  worker_pool_id   TEXT /*bytewise*/ NOT NULL,
  worker_group     TEXT /*bytewise*/ NOT NULL,
  worker_id        TEXT /*bytewise*/ NOT NULL,
  provider_id      TEXT   NOT NULL,
  launch_config_id TEXT   NOT NULL,
  state            TEXT   NOT NULL,            -- requested, running, stopping, stopped
  capacity         BIGINT NOT NULL,
  created          BIGINT NOT NULL,
  last_modified    BIGINT NOT NULL,            -- when the state last changed
  last_checked     BIGINT NOT NULL,
  expires          BIGINT NOT NULL,            -- of a running worker: its credentials; of others: the record
  started          BIGINT NOT NULL DEFAULT 0,  -- when the provider had accepted the order; 0: not known to
  registered       BIGINT NOT NULL DEFAULT 0,  -- when it first registered
  proven           BOOLEAN NOT NULL DEFAULT FALSE, -- it has run for a while, or has come back for more work
  polls            BIGINT  NOT NULL DEFAULT 0,     -- how often it has come for work, until it is proven
  asked            BIGINT NOT NULL DEFAULT 0,  -- when it was asked to end
  reason           TEXT   NOT NULL DEFAULT '', -- why it is stopping or stopped
  token            TEXT   NOT NULL,
  secret           TEXT   NOT NULL DEFAULT '',
  last_secret      TEXT   NOT NULL DEFAULT '', -- the one that secret was got with
  salt             TEXT   NOT NULL DEFAULT '', -- makes secret of what it was got with
  renewed          BIGINT NOT NULL DEFAULT 0,  -- when secret was given out first
  PRIMARY KEY (worker_pool_id, worker_group, worker_id)
);
CREATE INDEX worker_live ON worker (worker_pool_id) WHERE state <> 'stopped';
CREATE INDEX worker_expired ON worker (expires) WHERE state = 'stopped';

CREATE TABLE worker_pool_error (
  error_id         TEXT /*bytewise*/ PRIMARY KEY,
  worker_pool_id   TEXT /*bytewise*/ NOT NULL,
  launch_config_id TEXT   NOT NULL,            -- '': of none in particular
  reported         BIGINT NOT NULL,
  kind             TEXT   NOT NULL,
  title            TEXT   NOT NULL,
  description      TEXT   NOT NULL,
  extra            TEXT   NOT NULL             -- JSON
);
CREATE INDEX worker_pool_error_order ON worker_pool_error (worker_pool_id, reported DESC, error_id);
CREATE INDEX worker_pool_error_reported ON worker_pool_error (reported);
