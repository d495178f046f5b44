"""Generators over latents, one readable file each."""
