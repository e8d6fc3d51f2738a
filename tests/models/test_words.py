from __future__ import annotations

import pytest

from vesalius.models.words import is_known


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("liver", ("liver", "spleen"), True),
        ("Left_Kidney", ("left kidney",), True),
        ("spleen", ("liver",), False),
        ("Segment_1", ("liver",), False),
        ("liver", (), True),
        ("Segment_1", (), False),
        ("my own", ("my own",), True),
    ],
)
def test_words_that_a_network_knows(word: str, known: tuple[str, ...], expected: bool) -> None:
    assert is_known(word, known) is expected
