-- The access tokens of clients: up to two that live, so that one can follow the
-- other without a pause, and for a while those that were retired. A token's row
-- says nothing that opens anything once it is retired.
CREATE TABLE auth_token (
  client_id    TEXT /*bytewise*/ NOT NULL,
  token_id     TEXT /*bytewise*/ NOT NULL,
  access_token TEXT   NOT NULL,            -- sealed; '' when retired
  created      BIGINT NOT NULL,            -- of a client's tokens each later than those before
  last_used    BIGINT NOT NULL,            -- 0: never, as far as was written down
  retired      BIGINT NOT NULL,            -- 0: it lives
  PRIMARY KEY (client_id, token_id)
);

-- Those there were remain sealed for the place that they had; see place.
INSERT INTO auth_token (client_id, token_id, access_token, created, last_used, retired)
SELECT client_id, 'first', access_token, last_rotated, last_used, 0 FROM auth_client;

ALTER TABLE auth_client DROP COLUMN access_token;
