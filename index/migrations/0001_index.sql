-- The task found at each path: of those inserted there the one of the highest
-- rank, and of equals the last.
CREATE TABLE index_task (
  path    TEXT /*bytewise*/ PRIMARY KEY,
  parent  TEXT /*bytewise*/ NOT NULL,   -- the path without its last name, "" at the top
  rank    DOUBLE PRECISION  NOT NULL,
  task_id TEXT              NOT NULL,
  data    TEXT              NOT NULL,   -- JSON
  expires BIGINT            NOT NULL
);
CREATE INDEX index_task_by_parent ON index_task (parent, path);
CREATE INDEX index_task_by_expiry ON index_task (expires);

-- Every path that has tasks somewhere below it.
CREATE TABLE index_namespace (
  path    TEXT /*bytewise*/ PRIMARY KEY,
  parent  TEXT /*bytewise*/ NOT NULL,
  expires BIGINT            NOT NULL    -- not before that of anything below
);
CREATE INDEX index_namespace_by_parent ON index_namespace (parent, path);
CREATE INDEX index_namespace_by_expiry ON index_namespace (expires);

-- One row: the last message about a completed task that was acted on.
CREATE TABLE index_progress (position BIGINT NOT NULL);
INSERT INTO index_progress (position) VALUES (0);
