"""Metrics of generated images: Fréchet distance and its error, Inception score, KID, precision and recall.

Nothing is imported here, since some of the modules need no torch.
"""
