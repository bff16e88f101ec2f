-- Groups whose tasks are getting another priority. due is when the loop takes
-- the change on if the call that asked for it does not end it itself.
CREATE TABLE priority_change (
  task_group_id TEXT /*bytewise*/ PRIMARY KEY,
  priority      BIGINT NOT NULL,
  affected      BIGINT NOT NULL DEFAULT 0, -- tasks that had another priority
  due           BIGINT NOT NULL
);
CREATE INDEX priority_change_due ON priority_change (due);

-- By which those are found that have another priority still.
DROP INDEX task_group_active;
CREATE INDEX task_group_active ON task (task_group_id, priority) WHERE state IN ('unscheduled', 'pending', 'running');
