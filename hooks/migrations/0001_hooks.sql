-- Hooks: templates of tasks, and what makes them create one.
CREATE TABLE hook (
  id             INTEGER /*identity*/ PRIMARY KEY,
  hook_group_id  TEXT /*bytewise*/ NOT NULL,
  hook_id        TEXT /*bytewise*/ NOT NULL,
  size           BIGINT NOT NULL,   -- of the definition, in bytes
  next           BIGINT,            -- when the schedule is due
  created        BIGINT NOT NULL,
  mailed         BIGINT NOT NULL,   -- when its owner was last told of a failure; 0: never
  trigger_token  TEXT   NOT NULL,   -- sealed
  bindings       TEXT   NOT NULL,   -- JSON
  schedule       TEXT   NOT NULL,   -- JSON list of cron patterns
  metadata       TEXT   NOT NULL,   -- JSON
  trigger_schema TEXT   NOT NULL,   -- JSON schema of payloads
  task           TEXT   NOT NULL    -- JSON-e template; last, since it may be long
);
CREATE UNIQUE INDEX hook_name ON hook (hook_group_id, hook_id);
CREATE INDEX hook_next ON hook (next) WHERE next IS NOT NULL;
CREATE INDEX hook_bound ON hook (id) WHERE bindings <> '[]';

-- Fires: first what is going to be done, under which task id and with which
-- definition; later what came of it.
CREATE TABLE hook_fire (
  id         INTEGER /*identity*/ PRIMARY KEY,
  hook       BIGINT NOT NULL,       -- hook.id
  task_id    TEXT   NOT NULL,
  fired_by   TEXT   NOT NULL,
  fired      BIGINT NOT NULL,       -- what the template was rendered for as now
  request    TEXT   NOT NULL,       -- hash of the request of a caller who chose the task id, or ''
  context    TEXT,                  -- JSON, for rendering anew; NULL once it is over
  definition TEXT,                  -- of the task, as it is sent; NULL once it is over
  attempts   BIGINT NOT NULL,
  due        BIGINT,                -- of the next attempt; NULL once it is over
  give_up    BIGINT NOT NULL,       -- no attempt after this
  finished   BIGINT NOT NULL,       -- or 0
  result     TEXT   NOT NULL,       -- success, error, or '' while it goes on
  error      TEXT   NOT NULL        -- of the last attempt
);
CREATE INDEX hook_fire_hook ON hook_fire (hook, id);
CREATE INDEX hook_fire_due ON hook_fire (due) WHERE due IS NOT NULL;
CREATE INDEX hook_fire_finished ON hook_fire (finished) WHERE due IS NULL;

-- bindings: how many changes were made to the bindings of hooks.
-- position: the message up to which the log has become fires.
CREATE TABLE hook_state (
  name  TEXT PRIMARY KEY,
  value BIGINT NOT NULL
);
INSERT INTO hook_state (name, value) VALUES ('bindings', 0), ('position', 0);
