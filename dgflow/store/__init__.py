"""Identity, objects, shards, receipts and manifests: a run as it is kept, with the means to check it."""
