"""Training by simulated interaction."""
