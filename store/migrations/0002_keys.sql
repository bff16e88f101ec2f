-- Secrets of a database like this one may be sealed with keys that are in it (package seal/ring). A program
-- that knows none of them is kept out by this, as it would find secrets that it cannot open.
UPDATE lease SET expires = expires;
