"""Types, coordinate frames and errors that every other part shares; imports nothing of ours."""
