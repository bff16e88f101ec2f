-- The keys of the platform, each sealed with a root key, which is not in the database.
CREATE TABLE platform_key (
  purpose TEXT /*bytewise*/ NOT NULL,
  id      TEXT /*bytewise*/ NOT NULL, -- "own" is what the configuration has
  seq     BIGINT NOT NULL,            -- the version of the ring that it came with: later keys have higher ones
  state   TEXT   NOT NULL,            -- accepted, used, retired
  name    TEXT   NOT NULL,            -- of the key itself, by which what it has sealed is told; '' if there is none
  sealed  TEXT   NOT NULL,            -- the key; '' if it is not here, or not any more
  probe   TEXT   NOT NULL,            -- what the key has sealed, for others to open; '' if it seals nothing
  changed BIGINT NOT NULL,            -- the version of the ring that brought the state
  idle    BIGINT NOT NULL,            -- since when no replica uses it, as far as is known; 0: they may
  created BIGINT NOT NULL,
  retired BIGINT NOT NULL,
  used    BIGINT NOT NULL,            -- when it was last seen in use, where that is told
  PRIMARY KEY (purpose, id)
);

-- One row: raised by every change, and held by who changes something.
CREATE TABLE platform_key_version (
  version BIGINT NOT NULL
);
INSERT INTO platform_key_version (version) VALUES (0);

-- What each replica has, and has tried.
CREATE TABLE platform_key_replica (
  replica TEXT /*bytewise*/ PRIMARY KEY,
  version BIGINT NOT NULL,
  seen    BIGINT NOT NULL,
  trouble TEXT   NOT NULL             -- why it does not come further
);
