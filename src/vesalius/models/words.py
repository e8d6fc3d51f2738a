"""Words that a network was trained on, looked up through the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from vesalius.core.errors import PromptError
from vesalius.vocabulary.targets import find_target, similar_targets, target_of

# Words near the wrong one that an error names.
_NAMED = 8


def rows_of(words: Sequence[str], known: Sequence[str]) -> list[int]:
    """Which of the words that a network knows each of some words means; synonyms mean one target.

    Args:
        words: As a person gives them.
        known: Names of targets.

    Raises:
        PromptError: One means none of them.
    """
    return [_row(word, known) for word in words]


def is_known(word: str, known: Sequence[str]) -> bool:
    """Whether a word is, or means, one that a network knows; ``known`` is empty for a network that takes any words."""
    return target_of(word).name in _places(tuple(known)) if known else find_target(word) is not None


def _row(word: str, known: Sequence[str]) -> int:
    if word in known:
        return known.index(word)
    places = _places(tuple(known))
    if (name := target_of(word).name) in places:
        return places[name]
    near = [other.name for other in similar_targets(word, limit=100) if other.name in places][:_NAMED]
    raise PromptError(
        f"the model was not trained on {word!r}",
        remedy=f"say {' or '.join(near)}" if near else f"say one of: {', '.join(sorted(known))}",
    )


@lru_cache(maxsize=32)
def _places(known: tuple[str, ...]) -> dict[str, int]:
    """The vocabulary's name of each word that a network knows -> its place; the first of words that mean one target.

    Networks may have been told names as data sets have them, of which the vocabulary has its own.
    """
    return {target_of(name).name: i for i, name in reversed(list(enumerate(known)))}
