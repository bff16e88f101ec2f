-- Accounts at certificate authorities: one for each credential at each.
CREATE TABLE acme_account (
  credential TEXT /*bytewise*/ NOT NULL,
  directory  TEXT /*bytewise*/ NOT NULL, -- URL of the authority's directory
  url        TEXT   NOT NULL,            -- of the account; '' until it is registered
  sealed     TEXT   NOT NULL,            -- the account's key, PKCS #8 in base64, sealed
  key_id     TEXT   NOT NULL,            -- of the key that has sealed it
  wait_until BIGINT NOT NULL,            -- the authority wants no request before
  PRIMARY KEY (credential, directory)
);

-- Orders of versions, written down before anything is issued by them.
CREATE TABLE acme_order (
  version TEXT /*bytewise*/ PRIMARY KEY,
  url     TEXT   NOT NULL,               -- of the order; '' until it is made
  sealed  TEXT   NOT NULL,               -- the certificate's key, likewise
  key_id  TEXT   NOT NULL
);

-- Challenges that are answered now, or whose answers are still to be taken back.
CREATE TABLE acme_challenge (
  version TEXT /*bytewise*/ NOT NULL,
  token   TEXT /*bytewise*/ NOT NULL,
  record  TEXT   NOT NULL,               -- name of the DNS record; '' if it is answered by HTTP
  answer  TEXT   NOT NULL,
  made    BIGINT NOT NULL,
  PRIMARY KEY (version, token)
);
CREATE INDEX acme_challenge_token ON acme_challenge (token);
