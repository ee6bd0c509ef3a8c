"""Publish networks and samples of a root as a folder, or as a repository on the Hugging Face hub, with a card
written from receipts.
"""
