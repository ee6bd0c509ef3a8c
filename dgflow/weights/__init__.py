"""Weight files: downloads that are locked at first use, and readers that run none of a file's code."""
