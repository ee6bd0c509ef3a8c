"""Files of other tools, local or in S3: read by ranges, zip, tar, npz, inert pickles, atomic outputs. No
torch, no ray."""
