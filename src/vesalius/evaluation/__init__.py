"""Measuring models under stated prompts."""
