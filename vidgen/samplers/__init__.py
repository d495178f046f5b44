"""Pure functions that walk from noise to data."""
