-- Secrets. The value of one that has expired is erased: sealed and key_id are
-- empty then, and the row stays for a day to say when it expired.
CREATE TABLE secret (
  name    TEXT /*bytewise*/ PRIMARY KEY,
  sealed  TEXT   NOT NULL,   -- the JSON of the value, sealed
  key_id  TEXT   NOT NULL,   -- of the key that has sealed it
  expires BIGINT NOT NULL
);

CREATE INDEX secret_by_expiry ON secret (expires);
CREATE INDEX secret_by_key ON secret (key_id);
