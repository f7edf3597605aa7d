-- TLS client certificates that sites are bound to: one that has any is let in over a connection that shows one of them.
-- sha256: of the certificate's DER, 64 hex digits.

CREATE TABLE site_certificates (
    site_id BIGINT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    sha256 TEXT NOT NULL,
    label TEXT NOT NULL,
    created_us BIGINT NOT NULL,
    PRIMARY KEY (site_id, sha256)
);
CREATE INDEX site_certificates_by_sha256 ON site_certificates (sha256);
