"""The storage of a run: identity, objects, shards, receipts and manifests, with the means to verify them."""
