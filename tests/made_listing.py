"""What a layout finds, in the order of a corpus."""

from vesalius.corpus.entries import list_entries
from vesalius.corpus.recipe import DatasetRecipe
from vesalius.corpus.scans import Entry


def listed(dataset: DatasetRecipe) -> list[Entry]:
    return list(list_entries(dataset).entries)
