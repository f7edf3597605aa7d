-- Blobs: payloads too large to be inline. A row is one upload of one site; the bytes lie in the file store, while the
-- upload runs under the row's id, afterwards under their SHA-256, where rows may share them.
-- project_id: NULL for a part that is yet to be put together with others. size: NULL while the uploader has not said.
-- sha256: what the uploader says they will be; once is_complete, what they are. concat: the Upload-Concat header.
-- expires_us: when an unfinished upload is dropped. idle_us: since when nothing refers to a complete one.

CREATE TABLE blobs (
    id TEXT PRIMARY KEY,
    project_id BIGINT REFERENCES projects (id) ON DELETE CASCADE,
    site_id BIGINT REFERENCES sites (id) ON DELETE SET NULL,
    run BIGINT,
    filename TEXT NOT NULL,
    media_type TEXT NOT NULL,
    metadata TEXT NOT NULL,
    concat TEXT NOT NULL,
    size BIGINT,
    sha256 TEXT,
    is_complete BOOLEAN NOT NULL,
    created_us BIGINT NOT NULL,
    expires_us BIGINT,
    idle_us BIGINT
);
CREATE INDEX blobs_by_project ON blobs (project_id);
CREATE INDEX blobs_by_site ON blobs (site_id);
CREATE INDEX blobs_by_content ON blobs (sha256) WHERE is_complete;
CREATE INDEX blobs_by_expiry ON blobs (expires_us) WHERE expires_us IS NOT NULL;
CREATE INDEX blobs_by_idleness ON blobs (idle_us) WHERE idle_us IS NOT NULL;

-- Which events refer to a blob, one row for each audience ('': every member; else site ids, as a JSON array). position:
-- the offset of the newest of them, or the one that a transient event would have had.
CREATE TABLE blob_refs (
    blob_id TEXT NOT NULL REFERENCES blobs (id) ON DELETE CASCADE,
    project_id BIGINT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    audience TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (blob_id, audience)
);
CREATE INDEX blob_refs_by_position ON blob_refs (project_id, position);

-- The files that runs have already are blobs, too.
INSERT INTO blobs (id, project_id, site_id, run, filename, media_type, metadata, concat, size, sha256, is_complete, created_us)
    SELECT blob, MIN(project_id), NULL, MIN(run_id), MIN(name), 'application/octet-stream', '', '', MIN(size), MIN(sha256),
           TRUE, MIN(created_us)
    FROM files GROUP BY blob;
INSERT INTO blob_refs (blob_id, project_id, audience, position)
    SELECT DISTINCT f.blob, f.project_id, '[' || CAST(r.site_id AS TEXT) || ']', j.head
    FROM files f JOIN runs r ON r.id = f.run_id JOIN journals j ON j.project_id = f.project_id;
