-- How far the sweep of a region's bucket is. A region without a row was never
-- swept, or its index was lost.
CREATE TABLE mirror_sweep (
  region TEXT /*bytewise*/ PRIMARY KEY,
  digits BIGINT NOT NULL, -- of the ids, that a share is told from others by
  share  BIGINT NOT NULL, -- the next one
  began  BIGINT NOT NULL,
  ended  BIGINT NOT NULL  -- the sweep before
);

-- How far the scrubber is that reads a region's copies again.
CREATE TABLE mirror_scrub (
  region TEXT /*bytewise*/ PRIMARY KEY,
  id     TEXT   NOT NULL, -- of the copy that was read last, or is being read
  token  TEXT   NOT NULL, -- of its object, of which done bytes were read; '': it is done with
  done   BIGINT NOT NULL,
  hash   TEXT   NOT NULL, -- the state of SHA-256 after them, in base64
  paid   BIGINT NOT NULL, -- until when the budget is spent
  round  BIGINT NOT NULL  -- when the first copy was read that has the smallest id
);

DROP INDEX mirror_copy_expires;
CREATE INDEX mirror_copy_expires ON mirror_copy (expires) WHERE state <> 'leaving';
DROP INDEX mirror_copy_read;
CREATE INDEX mirror_copy_read ON mirror_copy (region, read) WHERE state = 'present' AND NOT pinned;
