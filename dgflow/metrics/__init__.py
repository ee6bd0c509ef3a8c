"""Metrics of generated images: Inception's features, Fréchet distance and its error, Inception score, KID,
precision and recall, protocols.

Promises: float64, the same bits however the features were sharded, errors that name the bad row. Leaves to
    others: reading images, loading
weights, and spreading the work. Some of its modules need no torch, so nothing is imported here.
"""
