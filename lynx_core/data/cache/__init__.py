"""Encoded samples on the disk or in a bucket: entries, and the shards that they are packed into."""
