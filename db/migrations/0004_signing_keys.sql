-- Public keys that sites sign in with (Ed25519), and which of their signed assertions have been used.
-- id: made from the key itself. used_us: when the site last signed in with it. An assertion is kept until it
-- could not be used any more.

CREATE TABLE signing_keys (
    id TEXT PRIMARY KEY,
    site_id BIGINT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    label TEXT NOT NULL,
    public_key $BYTES NOT NULL,
    created_us BIGINT NOT NULL,
    used_us BIGINT,
    revoked_us BIGINT
);
CREATE INDEX signing_keys_by_site ON signing_keys (site_id);

CREATE TABLE used_assertions (
    key_id TEXT NOT NULL REFERENCES signing_keys (id) ON DELETE CASCADE,
    jti TEXT NOT NULL,
    expires_us BIGINT NOT NULL,
    PRIMARY KEY (key_id, jti)
);
CREATE INDEX used_assertions_by_expiry ON used_assertions (expires_us);
