-- Which of the scopes that clients have, by themselves and by roles, were of use to them: to within a day.
CREATE TABLE auth_scope_use (
  client_id TEXT /*bytewise*/ NOT NULL,
  scope     TEXT /*bytewise*/ NOT NULL,  -- as it was granted, so often with a star; '': there were too many others
  last_used BIGINT NOT NULL,
  PRIMARY KEY (client_id, scope)
);
CREATE INDEX auth_scope_use_age ON auth_scope_use (last_used);

-- Since when that is recorded: one row.
CREATE TABLE auth_scope_use_since (
  one   BIGINT PRIMARY KEY,
  since BIGINT NOT NULL
);
