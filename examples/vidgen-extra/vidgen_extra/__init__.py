"""Parts for vidgen, found by the entry points in ``pyproject.toml``; vidgen imports a part's module when it is asked for."""
