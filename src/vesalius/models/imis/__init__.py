"""IMIS-Net: SAM with a wider decoder that takes words and names what it finds."""
