-- Task queues that workers ask for work, noted with the workers' rows. Those of
-- workers that are there when this is applied follow within a minute.
CREATE TABLE task_queue (
  provisioner_id TEXT /*bytewise*/ NOT NULL,
  worker_type    TEXT /*bytewise*/ NOT NULL,
  last_active    BIGINT NOT NULL,
  expires        BIGINT NOT NULL,
  PRIMARY KEY (provisioner_id, worker_type)
);
CREATE INDEX task_queue_expires ON task_queue (expires);
