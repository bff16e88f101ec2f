-- Workers that asked for work. A claim reads its worker's row under a shared
-- lock, and whoever drains the worker takes the row for itself; so the row is
-- what a worker's claims and its end agree on. All else is written now and then.
CREATE TABLE queue_worker (
  task_queue_id    TEXT /*bytewise*/ NOT NULL,
  worker           TEXT NOT NULL,              -- group/id, as in task, which it is compared with
  draining         BIGINT NOT NULL DEFAULT 0,  -- since when it gets nothing any more; 0: it is not
  quarantine_until BIGINT NOT NULL DEFAULT 0,
  first_claim      BIGINT NOT NULL,
  last_active      BIGINT NOT NULL,
  last_release     BIGINT NOT NULL DEFAULT 0,  -- when the last of its claims ended that has; 0: none has
  expires          BIGINT NOT NULL,
  quarantine       TEXT NOT NULL DEFAULT '[]', -- JSON: who changed the quarantine, and why
  recent           TEXT NOT NULL DEFAULT '',   -- what it claimed last, newest first: 26 characters each, task id and run id
  PRIMARY KEY (task_queue_id, worker)
);
CREATE INDEX queue_worker_expires ON queue_worker (expires);
