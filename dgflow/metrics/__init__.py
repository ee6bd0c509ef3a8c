"""Metrics of generated images: Fréchet distance and its error, Inception score, KID, precision and recall.

This module imports nothing, since some of the modules do not need torch.
"""
