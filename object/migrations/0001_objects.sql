-- Objects and uploads that are to become some. The bytes are in the bucket
-- under blob_key, which no two rows have ever had in common.
CREATE TABLE object (
  name           TEXT /*bytewise*/ PRIMARY KEY,
  project_id     TEXT    NOT NULL,
  upload_id      TEXT    NOT NULL,
  blob_key       TEXT    NOT NULL,
  content_length BIGINT,             -- as announced; NULL before a way to upload was chosen
  content_type   TEXT    NOT NULL,   -- as stored; '' before the upload is finished
  hashes         TEXT    NOT NULL,   -- JSON, by algorithm
  expires        BIGINT  NOT NULL,
  upload_expires BIGINT  NOT NULL,   -- when an upload that is not finished is given up
  finished       BOOLEAN NOT NULL,
  deletable      BIGINT  NOT NULL    -- when bytes and row may go
);

CREATE INDEX object_by_deletion ON object (deletable);
