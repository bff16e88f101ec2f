-- An audit: what was asked for, how far it is, and what it has found.
CREATE TABLE credential_audit (
  id        TEXT /*bytewise*/ PRIMARY KEY,
  state     TEXT   NOT NULL,   -- waiting, running, done, failed
  by_client TEXT   NOT NULL,   -- who asked; '': the schedule
  options   TEXT   NOT NULL,   -- JSON
  attempt   BIGINT NOT NULL,
  created   BIGINT NOT NULL,
  started   BIGINT NOT NULL,
  ended     BIGINT NOT NULL,
  progress  TEXT   NOT NULL,   -- JSON
  error     TEXT   NOT NULL,
  counts    TEXT   NOT NULL,   -- JSON: findings by rule
  report    TEXT   NOT NULL    -- JSON; '' until it is done
);
CREATE INDEX credential_audit_age ON credential_audit (created);
CREATE INDEX credential_audit_open ON credential_audit (created) WHERE state IN ('waiting', 'running');
