-- When Sentry may be called next, by whichever replica. There is one row.
CREATE TABLE sentry_pace (
  id   BIGINT PRIMARY KEY,
  next BIGINT NOT NULL,  -- when the next call has its turn
  held BIGINT NOT NULL   -- before that Sentry does not want any
);

-- Projects whose addresses are given out, or which were made by us.
CREATE TABLE sentry_project (
  slug     TEXT /*bytewise*/ PRIMARY KEY,
  making   BOOLEAN NOT NULL,  -- we are about to create it, or have not finished
  team     TEXT    NOT NULL,  -- what it is to be like; '' is as configured
  platform TEXT    NOT NULL,
  count    BIGINT  NOT NULL,  -- limit of its keys: events in a window of seconds; 0 is as configured
  seconds  BIGINT  NOT NULL,
  current  TEXT    NOT NULL,  -- id of the key that is given out; '' if there is none
  dsn      TEXT    NOT NULL,  -- the addresses with that, sealed
  key_id   TEXT    NOT NULL,  -- of the key that has sealed them
  expires  BIGINT  NOT NULL   -- when the key does
);
CREATE INDEX sentry_project_key ON sentry_project (key_id);

-- Keys that were made for auth.sentryDSN, or are about to be, and others that are to go.
CREATE TABLE sentry_key (
  id       TEXT /*bytewise*/ PRIMARY KEY,  -- a part of it is in the label
  project  TEXT   NOT NULL,
  sentry   TEXT   NOT NULL,  -- what Sentry calls it; '' while minting
  state    TEXT   NOT NULL,  -- minting, live, disabled
  expires  BIGINT NOT NULL,
  disabled BIGINT NOT NULL   -- when it was
);
CREATE INDEX sentry_key_of ON sentry_key (project, state);
CREATE INDEX sentry_key_expires ON sentry_key (state, expires);

-- How far the daily look at all projects has come. There is one row.
CREATE TABLE sentry_sweep (
  id    BIGINT PRIMARY KEY,
  after TEXT   NOT NULL,  -- the project it has seen last; '' if it has seen all
  begun BIGINT NOT NULL
);
