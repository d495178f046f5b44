"""What tokenizers are trained by: reconstruction, perception, and an adversary. Nothing here is part of a saved model."""
