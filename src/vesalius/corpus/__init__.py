"""Labelled images as training and evaluation read them."""
