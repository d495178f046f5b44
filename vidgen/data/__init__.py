"""Data sets. Each is one module with one class named like it; the protocol is written in vidgen/protocols.py."""
