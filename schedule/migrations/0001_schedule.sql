-- Jobs: what is to be run, and when.
CREATE TABLE schedule_job (
  name       TEXT /*bytewise*/ PRIMARY KEY,
  kind       TEXT   NOT NULL,   -- whose runner runs it
  doc        TEXT   NOT NULL,
  expression TEXT   NOT NULL,
  zone       TEXT   NOT NULL,   -- IANA name, or '': UTC
  jitter     BIGINT NOT NULL,   -- milliseconds
  catch_up   BIGINT NOT NULL,   -- how many runs are made up for
  run_limit  BIGINT NOT NULL,   -- milliseconds
  retries    BIGINT NOT NULL,
  back_off   BIGINT NOT NULL,   -- milliseconds before the first retry
  data       TEXT   NOT NULL,   -- JSON, for the runner
  created    BIGINT NOT NULL,
  paused     BIGINT NOT NULL,   -- since when; 0: it is not
  paused_by  TEXT   NOT NULL,
  next       BIGINT NOT NULL,   -- the first date that no row of schedule_run is for; 0: there is none
  look       BIGINT NOT NULL    -- when a replica is to look at the job
);
CREATE INDEX schedule_job_look ON schedule_job (look);

-- Runs: one row for each date of a job that has come, and for each run that somebody asked for.
CREATE TABLE schedule_run (
  job         TEXT /*bytewise*/ NOT NULL,
  due         BIGINT NOT NULL,
  caller      TEXT   NOT NULL,  -- who asked for it; '': the schedule
  state       TEXT   NOT NULL,  -- due, running, done, failed or missed
  starts      BIGINT NOT NULL,  -- not before this
  attempt     BIGINT NOT NULL,  -- how often it was begun
  failures    BIGINT NOT NULL,  -- how often it failed
  interrupted BIGINT NOT NULL,  -- how often its replica was lost
  claim       TEXT   NOT NULL,  -- of the latest attempt
  replica     TEXT   NOT NULL,  -- that had the latest attempt
  expires     BIGINT NOT NULL,  -- the lease of that replica, while it runs
  started     BIGINT NOT NULL,  -- the latest attempt; 0: none
  ended       BIGINT NOT NULL,  -- 0: not yet
  outcome     TEXT   NOT NULL,
  error       TEXT   NOT NULL,
  PRIMARY KEY (job, due)
);
CREATE INDEX schedule_run_open ON schedule_run (job) WHERE ended = 0;
CREATE INDEX schedule_run_claim ON schedule_run (claim) WHERE ended = 0;
CREATE INDEX schedule_run_ended ON schedule_run (ended);
