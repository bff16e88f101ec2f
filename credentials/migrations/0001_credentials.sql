-- What is rotated. The definitions are in the configuration; here is how they fare.
CREATE TABLE credential (
  name     TEXT /*bytewise*/ PRIMARY KEY,
  kind     TEXT    NOT NULL,
  place    TEXT    NOT NULL,   -- where it is minted, for people
  site     TEXT    NOT NULL,   -- where the current version was minted, to be compared
  current  TEXT    NOT NULL,   -- id of the version that consumers are to use; '' before the first
  since    BIGINT  NOT NULL,   -- when it became that
  latest   BIGINT  NOT NULL,   -- when it is to be replaced at the latest, as it ends by itself; 0: it does not
  plan     TEXT    NOT NULL,   -- the schedule that next was worked out by
  next     BIGINT  NOT NULL,   -- when it is rotated; 0: when somebody asks
  failures BIGINT  NOT NULL,   -- rotations that failed in a row
  trouble  TEXT    NOT NULL,   -- why the last one did
  broken   TEXT    NOT NULL,   -- what the checks have found wrong of the current version
  doubt    TEXT    NOT NULL,   -- why the last check could not tell; '' if it could
  doubts   BIGINT  NOT NULL,   -- checks in a row that could not tell
  doubted  BIGINT  NOT NULL,   -- when the first of them was
  checked  BIGINT  NOT NULL,   -- when that was
  wanted   BIGINT  NOT NULL,   -- since when somebody is to supply a version; 0: nobody is
  reminded BIGINT  NOT NULL,   -- when that was last said
  again    BOOLEAN NOT NULL    -- another rotation, forced, follows the one that runs, or the one that was forced and failed
);

-- What was minted, or is about to be. The id is in the provider's label, where it has labels.
CREATE TABLE credential_version (
  id         TEXT /*bytewise*/ PRIMARY KEY,
  credential TEXT   NOT NULL,
  kind       TEXT   NOT NULL,  -- that it was minted by, whatever the configuration says by now
  place      TEXT   NOT NULL,  -- where, for people
  site       TEXT   NOT NULL,  -- where, to be compared: a hash
  settings   TEXT   NOT NULL,  -- that lead there, sealed; '' once it is gone
  state      TEXT   NOT NULL,  -- minting, minted, live, disabled, retired, withdrawn
  public     TEXT   NOT NULL,  -- JSON: what identifies it, no secret
  sealed     TEXT   NOT NULL,  -- the JSON of the secret, while minting the seed, sealed; '' once it is gone
  key_id     TEXT   NOT NULL,  -- of the key that has sealed it
  created    BIGINT NOT NULL,
  published  BIGINT NOT NULL,
  disabled   BIGINT NOT NULL,
  retired    BIGINT NOT NULL,
  used       BIGINT NOT NULL   -- when it was last seen in use
);
CREATE INDEX credential_version_of ON credential_version (credential, created);
CREATE INDEX credential_version_key ON credential_version (key_id);

-- The journal: a row for each rotation, and one for each step that it came to.
CREATE TABLE credential_rotation (
  id          TEXT /*bytewise*/ PRIMARY KEY,
  credential  TEXT    NOT NULL,
  version     TEXT    NOT NULL,  -- that it makes
  reason      TEXT    NOT NULL,  -- first, schedule, retry, expiring, moved, request, supplied, revoke
  occasion    BIGINT  NOT NULL,  -- the date of the schedule's job that it is for; 0: none
  by_client   TEXT    NOT NULL,  -- who asked
  forced      BOOLEAN NOT NULL,  -- old versions go though they are in use
  state       TEXT    NOT NULL,  -- running, done, failed
  step        TEXT    NOT NULL,
  due         BIGINT  NOT NULL,  -- when the step is tried
  attempt     BIGINT  NOT NULL,  -- of the step
  note        TEXT    NOT NULL,  -- what it waits for, or failed by
  alerted     BOOLEAN NOT NULL,  -- of having waited for too long
  started     BIGINT  NOT NULL,
  ended       BIGINT  NOT NULL,
  lease       TEXT    NOT NULL,  -- who works on it
  lease_until BIGINT  NOT NULL
);
CREATE INDEX credential_rotation_of ON credential_rotation (credential, started);
CREATE INDEX credential_rotation_due ON credential_rotation (state, due);
CREATE UNIQUE INDEX credential_rotation_one ON credential_rotation (credential) WHERE state = 'running';

CREATE TABLE credential_step (
  rotation TEXT /*bytewise*/ NOT NULL,
  step     TEXT   NOT NULL,
  attempt  BIGINT NOT NULL,     -- the latest
  started  BIGINT NOT NULL,     -- of the first attempt
  ended    BIGINT NOT NULL,     -- of the latest; 0 while it runs
  outcome  TEXT   NOT NULL,     -- running, done, waiting, failed
  error    TEXT   NOT NULL,
  PRIMARY KEY (rotation, step)
);

-- Which version each consumer has. Where a consumer is on every replica there is a row for each of them.
CREATE TABLE credential_pickup (
  credential TEXT /*bytewise*/ NOT NULL,
  consumer   TEXT /*bytewise*/ NOT NULL,
  replica    TEXT /*bytewise*/ NOT NULL,  -- '' for one that is not on replicas
  version    TEXT   NOT NULL,   -- that it was handed
  confirmed  TEXT   NOT NULL,   -- that it is known to use
  at         BIGINT NOT NULL,   -- of the latest of the two
  seen       BIGINT NOT NULL,   -- when the replica last looked after it
  error      TEXT   NOT NULL,
  PRIMARY KEY (credential, consumer, replica)
);
