"""Video tokenizers: a backbone and a quantizer behind one contract."""
