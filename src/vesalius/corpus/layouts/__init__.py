"""Readers of the folder layouts that people have."""
