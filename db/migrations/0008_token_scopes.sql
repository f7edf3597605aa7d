-- What a token may be used for: names of scopes, by commas.

ALTER TABLE tokens ADD COLUMN scopes TEXT NOT NULL DEFAULT 'connect,publish';
