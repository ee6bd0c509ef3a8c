"""Identity, objects, shards, receipts and manifests: what is kept of a run, and how it is known to be
whole."""
