from __future__ import annotations

import pytest

from vesalius.core.errors import PromptError
from vesalius.models.words import is_known, rows_of


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
        ("optic disc rim", ("optic disc (rim, outside the cup)",), True),
        ("airway", ("airways",), True),
        ("optic cup", ("optic disc (rim, outside the cup)",), False),
    ],
)
def test_words_that_a_network_knows(word: str, known: tuple[str, ...], expected: bool) -> None:
    assert is_known(word, known) is expected


def test_a_word_is_the_same_whoever_names_it() -> None:
    known = ("lung", "airways", "optic disc (rim, outside the cup)", "my own")
    assert rows_of(["airways", "airway", "Airway", "optic disc rim", "my own", "lungs"], known) == [1, 1, 1, 2, 3, 0]
    with pytest.raises(PromptError, match="not trained on 'optic disc'; say optic disc rim"):
        rows_of(["optic disc"], known)
