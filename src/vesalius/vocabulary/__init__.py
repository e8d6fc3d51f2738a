"""Names of modalities and their synonyms."""
