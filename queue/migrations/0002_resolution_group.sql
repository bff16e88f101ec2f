-- The group of what was resolved, so that its end is announced once: with the
-- last of its resolutions that is followed up.
ALTER TABLE resolution ADD COLUMN task_group_id TEXT /*bytewise*/ NOT NULL DEFAULT '';
UPDATE resolution SET task_group_id = coalesce((SELECT task_group_id FROM task WHERE task.task_id = resolution.task_id), '');
CREATE INDEX resolution_group ON resolution (task_group_id);
