"""Backups: all rows and all contents as they were at one moment, taken beside a relay that serves, and put back.

    manifest.json         what it is, of which schema and moment; written last, so that without it a backup is none
    tables/NAME.jsonl     the rows of a table, a JSON array each; bytes are base64
    contents.jsonl        [sha256, size] of each content that the rows name
    contents/ab/cd0123…   the contents, by the SHA-256 of their bytes

The same in a directory and in a tar file, and the same from SQLite and PostgreSQL, a directory and a bucket: a backup
of one can be restored into another. Unfinished uploads begin anew.
"""
