-- Clients and roles. Every process keeps all of them in memory; these tables
-- are read as a whole at the start and whenever the version shows that another
-- process has changed something.
CREATE TABLE auth_client (
  client_id            TEXT /*bytewise*/ PRIMARY KEY,
  description          TEXT    NOT NULL,
  scopes               TEXT    NOT NULL,   -- JSON
  access_token         TEXT    NOT NULL,   -- sealed
  disabled             BOOLEAN NOT NULL,
  delete_on_expiration BOOLEAN NOT NULL,
  expires              BIGINT  NOT NULL,
  created              BIGINT  NOT NULL,
  created_by           TEXT    NOT NULL,   -- client id of the creator
  last_modified        BIGINT  NOT NULL,
  last_rotated         BIGINT  NOT NULL,
  last_used            BIGINT  NOT NULL
);

CREATE TABLE auth_role (
  role_id       TEXT /*bytewise*/ PRIMARY KEY,
  description   TEXT   NOT NULL,
  scopes        TEXT   NOT NULL,           -- JSON
  created       BIGINT NOT NULL,
  last_modified BIGINT NOT NULL
);

-- One row: how many changes were made. A transaction that changes anything
-- raises it first, and so holds the lock that puts changes into one order.
CREATE TABLE auth_version (version BIGINT NOT NULL);
INSERT INTO auth_version (version) VALUES (0);
