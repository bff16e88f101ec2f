-- Who did what to which entity, for a while. Rows are written by the
-- transactions that make the changes, those of other services included.
CREATE TABLE auth_audit (
  id          INTEGER /*identity*/ PRIMARY KEY,
  entity_type TEXT   NOT NULL,             -- client, role, secret, hook, worker-pool
  entity_id   TEXT   NOT NULL,
  client_id   TEXT   NOT NULL,             -- who did it
  action_type TEXT   NOT NULL,
  created     BIGINT NOT NULL
);
CREATE INDEX auth_audit_entity ON auth_audit (entity_type, entity_id, created, id);
CREATE INDEX auth_audit_client ON auth_audit (client_id, created, id);
CREATE INDEX auth_audit_created ON auth_audit (created);
