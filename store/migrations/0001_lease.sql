-- Who may do what only one process at a time may do.
CREATE TABLE lease (
  name    TEXT /*bytewise*/ NOT NULL PRIMARY KEY,
  holder  TEXT NOT NULL,
  expires BIGINT NOT NULL -- Unix milliseconds
);
