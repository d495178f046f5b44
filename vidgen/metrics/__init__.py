"""Measures of reconstructions, codebooks and samples, found by name: a measure is a file of this folder."""
