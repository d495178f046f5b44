"""Encoders and decoders of video tokenizers, one file each."""
