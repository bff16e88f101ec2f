-- Copies of origins in regions. The id is the SHA-256 of the origin's text. For
-- what a copy is in which state see copy.go.
CREATE TABLE mirror_copy (
  region      TEXT /*bytewise*/ NOT NULL,
  id          TEXT /*bytewise*/ NOT NULL,
  origin      TEXT /*bytewise*/ NOT NULL,
  state       TEXT    NOT NULL,
  priority    BIGINT  NOT NULL,
  pinned      BOOLEAN NOT NULL,
  again       BOOLEAN NOT NULL, -- wanted while it is leaving
  size        BIGINT  NOT NULL, -- -1: not known yet
  lane        BIGINT  NOT NULL, -- by that size: 0 small, 1 not known, 2 large
  etag        TEXT    NOT NULL, -- of the origin, or ''
  sha256      TEXT    NOT NULL, -- or ''
  token       TEXT    NOT NULL, -- of the object in the bucket: see Copy.key
  stored      TEXT    NOT NULL, -- its ETag, once it is there
  upload      TEXT    NOT NULL, -- JSON: the upload under way, or ''
  done        BIGINT  NOT NULL, -- bytes of it
  requested   BIGINT  NOT NULL,
  due         BIGINT  NOT NULL,
  attempts    BIGINT  NOT NULL,
  error       TEXT    NOT NULL,
  lease       TEXT    NOT NULL,
  lease_until BIGINT  NOT NULL,
  expires     BIGINT  NOT NULL,
  read        BIGINT  NOT NULL,
  verified    BIGINT  NOT NULL,
  PRIMARY KEY (region, id)
);
CREATE INDEX mirror_copy_id ON mirror_copy (id);
CREATE INDEX mirror_copy_order ON mirror_copy (region, lane, priority DESC, requested) WHERE state = 'waiting';
CREATE INDEX mirror_copy_lease ON mirror_copy (region, lease_until) WHERE state = 'copying';
CREATE INDEX mirror_copy_failed ON mirror_copy (due) WHERE state = 'failed';
CREATE INDEX mirror_copy_leaving ON mirror_copy (region, id) WHERE state = 'leaving';
CREATE INDEX mirror_copy_left ON mirror_copy (region, requested) WHERE state = 'leaving';
CREATE INDEX mirror_copy_expires ON mirror_copy (expires) WHERE state <> 'leaving';
CREATE INDEX mirror_copy_read ON mirror_copy (region, read) WHERE state = 'present' AND NOT pinned;
CREATE INDEX mirror_copy_large ON mirror_copy (region, size) WHERE state = 'present' AND lane = 2 AND NOT pinned;
CREATE INDEX mirror_copy_verified ON mirror_copy (region, verified) WHERE state = 'present';
CREATE INDEX mirror_copy_fresh ON mirror_copy (region, requested) WHERE state = 'present' AND verified < requested + 3600000;
CREATE INDEX mirror_copy_attempts ON mirror_copy (region, due) WHERE attempts > 0;

-- How many copies there are and what they hold, written with what changes it.
CREATE TABLE mirror_tally (
  region  TEXT /*bytewise*/ NOT NULL,
  state   TEXT   NOT NULL,
  objects BIGINT NOT NULL,
  bytes   BIGINT NOT NULL,
  PRIMARY KEY (region, state)
);

-- How far the sweep of a region's bucket is. A region without a row was never
-- swept, or its index was lost.
CREATE TABLE mirror_sweep (
  region TEXT /*bytewise*/ PRIMARY KEY,
  digits BIGINT  NOT NULL, -- of the ids, that a share is told from others by
  share  BIGINT  NOT NULL, -- the next one
  began  BIGINT  NOT NULL,
  ended  BIGINT  NOT NULL, -- the sweep before; 0: none, and objects without a row are copies
  bucket TEXT    NOT NULL, -- that it is of: endpoint and name
  sure   BOOLEAN NOT NULL  -- the index is known to be of that bucket
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
