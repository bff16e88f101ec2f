ALTER TABLE worker ADD COLUMN leave TEXT NOT NULL DEFAULT ''; -- why it is to go as soon as it is idle; '': it is not

-- How providers were when they were looked at last.
CREATE TABLE provider_health (
  provider_id   TEXT PRIMARY KEY,
  looked        BIGINT NOT NULL,
  workers       BIGINT NOT NULL, -- that were seen
  error         TEXT   NOT NULL, -- '': none
  failing_since BIGINT NOT NULL  -- 0: it does not fail
);

-- Runs that have ended, counted by the minute, and up to which message.
CREATE TABLE tally (
  worker_pool_id TEXT /*bytewise*/ NOT NULL,
  at             BIGINT NOT NULL,
  tasks          BIGINT NOT NULL,
  length         BIGINT NOT NULL, -- milliseconds that they took, together
  PRIMARY KEY (worker_pool_id, at)
);
CREATE INDEX tally_at ON tally (at);
CREATE TABLE tally_position (
  one      BIGINT PRIMARY KEY, -- 1
  position BIGINT NOT NULL
);

-- When the latest worker was asked for that has worked.
ALTER TABLE launch_config ADD COLUMN last_good BIGINT NOT NULL DEFAULT 0;
