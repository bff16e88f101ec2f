-- Which caches of a worker pool must not be used any more. Every process keeps
-- all of it in memory, and reads what has a higher version than it knows.
CREATE TABLE purge_request (
  worker_pool_id TEXT /*bytewise*/ NOT NULL,
  cache_name     TEXT /*bytewise*/ NOT NULL,
  made_before    BIGINT NOT NULL,   -- what is older must go
  expires        BIGINT NOT NULL,
  version        BIGINT NOT NULL,   -- of its last change
  PRIMARY KEY (worker_pool_id, cache_name)
);
CREATE INDEX purge_request_by_version ON purge_request (version);
CREATE INDEX purge_request_by_expiry ON purge_request (expires);

-- One row: how many changes were made. A transaction that makes one raises it
-- first, and so holds the lock that puts changes into one order.
CREATE TABLE purge_version (version BIGINT NOT NULL);
INSERT INTO purge_version (version) VALUES (0);
