-- Resolutions that could not be followed up stand aside until due, so that the
-- others go on.
ALTER TABLE resolution ADD COLUMN failures BIGINT NOT NULL DEFAULT 0;
ALTER TABLE resolution ADD COLUMN due BIGINT NOT NULL DEFAULT 0; -- 0: at once
