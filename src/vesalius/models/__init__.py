"""Promptable networks behind one interface, and their checkpoints."""
