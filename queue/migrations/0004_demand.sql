-- What a provisioner sizes pools by, in columns and indexes of its own.
--
-- started is when the running run was claimed, and kind tells tasks apart that
-- take different time: the tag "label". For what runs when this is applied,
-- started is when it was claimed or last reclaimed.
ALTER TABLE task ADD COLUMN started BIGINT NOT NULL DEFAULT 0;
ALTER TABLE task ADD COLUMN kind TEXT NOT NULL DEFAULT '';
UPDATE task SET started = taken_until - 1200000 WHERE state = 'running';
UPDATE task SET kind = coalesce(substr(tags /*json*/ ->> 'label', 1, 200), '') WHERE state IN ('unscheduled', 'pending', 'running');
DROP INDEX task_worker;
CREATE INDEX task_running ON task (task_queue_id, worker, started, kind, task_id) WHERE state = 'running';

-- An edge whose dependent is unscheduled and still waits for it has waits 1 if
-- it is the dependent's only such edge, and 2 if there are others. Other edges
-- have 0. So what waits for nothing but a given task is counted by an index.
ALTER TABLE dependency ADD COLUMN task_queue_id TEXT /*bytewise*/ NOT NULL DEFAULT ''; -- of the dependent
ALTER TABLE dependency ADD COLUMN waits BIGINT NOT NULL DEFAULT 0;
UPDATE dependency SET waits = CASE WHEN EXISTS (
         SELECT 1 FROM dependency AS other
          WHERE other.task_id = dependency.task_id AND other.satisfied = 0 AND other.required <> dependency.required) THEN 2 ELSE 1 END,
       task_queue_id = (SELECT task_queue_id FROM task WHERE task.task_id = dependency.task_id)
 WHERE satisfied = 0 AND EXISTS (SELECT 1 FROM task WHERE task.task_id = dependency.task_id AND task.state = 'unscheduled');
CREATE INDEX dependency_waits ON dependency (required, waits, task_queue_id, task_id) WHERE waits > 0;
