"""Bottlenecks of video tokenizers, one file each."""
