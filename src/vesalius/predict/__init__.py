"""From a slice and prompts to outlines."""
