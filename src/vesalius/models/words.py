"""Words that a network was trained on, looked up through the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

from vesalius.core.errors import PromptError
from vesalius.vocabulary.targets import find_target, similar_targets

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
    target = find_target(word)
    return word in known or (target is not None and (not known or target.name in known))


def _row(word: str, known: Sequence[str]) -> int:
    target = find_target(word)
    for name in (word, target.name if target else word):
        if name in known:
            return known.index(name)
    near = [other.name for other in similar_targets(word, limit=100) if other.name in known][:_NAMED]
    raise PromptError(
        f"the model was not trained on {word!r}",
        remedy=f"say {' or '.join(near)}" if near else f"say one of: {', '.join(sorted(known))}",
    )
