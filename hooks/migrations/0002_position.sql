-- The position can be within a message that fires many hooks: those up to this
-- one, by their ids, are done. 0: all are.
ALTER TABLE hook_state ADD COLUMN hook BIGINT NOT NULL DEFAULT 0;
