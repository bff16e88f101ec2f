-- One row a task. Runs are JSON in the row: a task's transitions read and write
-- one row, and there are rarely more than two runs. What loops and listings
-- search by stands in columns with partial indexes, which stay as small as the
-- set of tasks that are alive.
CREATE TABLE task (
  task_id       TEXT /*bytewise*/ PRIMARY KEY,
  task_queue_id TEXT /*bytewise*/   NOT NULL,
  scheduler_id  TEXT   NOT NULL,
  project_id    TEXT   NOT NULL,
  task_group_id TEXT /*bytewise*/   NOT NULL,
  priority      BIGINT NOT NULL,          -- 0 lowest … 6 highest
  state         TEXT   NOT NULL,
  retries       BIGINT NOT NULL,
  retries_left  BIGINT NOT NULL,
  deadline      BIGINT NOT NULL,
  expires       BIGINT NOT NULL,
  taken_until   BIGINT NOT NULL DEFAULT 0, -- of the running run
  worker        TEXT   NOT NULL DEFAULT '', -- group/id that holds the running run
  runs          TEXT   NOT NULL,          -- JSON
  routes        TEXT   NOT NULL,          -- JSON, for events
  tags          TEXT   NOT NULL,          -- JSON, for events
  definition    TEXT   NOT NULL           -- JSON, as returned by the method task
);
CREATE INDEX task_group_members ON task (task_group_id, task_id);
CREATE INDEX task_group_active ON task (task_group_id) WHERE state IN ('unscheduled', 'pending', 'running');
CREATE INDEX task_deadline ON task (deadline) WHERE state IN ('unscheduled', 'pending', 'running');
CREATE INDEX task_claim ON task (taken_until) WHERE state = 'running';
CREATE INDEX task_worker ON task (task_queue_id, worker) WHERE state = 'running';
CREATE INDEX task_expires ON task (expires);

-- What workers may claim now. A claim deletes the row; whoever deletes it owns
-- the task's next transition. Locks are taken in the order pending, task.
CREATE TABLE pending (
  seq           INTEGER /*identity*/ PRIMARY KEY, -- keeps the order within a millisecond
  task_id       TEXT /*bytewise*/ NOT NULL UNIQUE,
  run_id        BIGINT NOT NULL,
  task_queue_id TEXT /*bytewise*/   NOT NULL,
  priority      BIGINT NOT NULL,
  since         BIGINT NOT NULL
);
CREATE INDEX pending_order ON pending (task_queue_id, priority DESC, since, seq);

-- An edge of the graph. It is satisfied once, by the loop that follows up
-- resolved tasks or at creation.
CREATE TABLE dependency (
  task_id   TEXT /*bytewise*/ NOT NULL,   -- the dependent
  required  TEXT /*bytewise*/ NOT NULL,
  on_any    BIGINT NOT NULL,              -- 1: any resolution satisfies it (all-resolved)
  satisfied BIGINT NOT NULL,
  PRIMARY KEY (task_id, required)
);
CREATE INDEX dependency_required ON dependency (required, task_id);
CREATE INDEX dependency_open ON dependency (task_id) WHERE satisfied = 0;

-- Resolved tasks whose dependents and group have not been looked at yet;
-- position is how far the loop has come among the dependents.
CREATE TABLE resolution (
  id        INTEGER /*identity*/ PRIMARY KEY,
  task_id   TEXT /*bytewise*/   NOT NULL,
  completed BIGINT NOT NULL,
  position  TEXT /*bytewise*/ NOT NULL DEFAULT ''
);

CREATE TABLE task_group (
  task_group_id TEXT /*bytewise*/ PRIMARY KEY,
  scheduler_id  TEXT   NOT NULL,
  expires       BIGINT NOT NULL,
  sealed        BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX task_group_expires ON task_group (expires);

CREATE TABLE artifact (
  task_id        TEXT /*bytewise*/   NOT NULL,
  run_id         BIGINT NOT NULL,
  name           TEXT /*bytewise*/ NOT NULL,
  storage_type   TEXT   NOT NULL,
  content_type   TEXT   NOT NULL,
  content_length BIGINT,
  expires        BIGINT NOT NULL,
  detail         TEXT   NOT NULL, -- JSON: url, linked artifact, reason and message
  upload         TEXT   NOT NULL, -- JSON: the multipart upload under way, or ''
  PRIMARY KEY (task_id, run_id, name)
);
CREATE INDEX artifact_expires ON artifact (expires);
