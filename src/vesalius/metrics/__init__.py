"""Pure functions on boolean masks."""
