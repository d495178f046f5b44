"""Frozen networks that turn clips into feature vectors, for distances between sets of clips; found by name."""
