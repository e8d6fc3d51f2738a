from __future__ import annotations

import numpy as np
import pytest

from vesalius.core.errors import PromptError, WriteError
from vesalius.core.frame import Frame
from vesalius.core.types import Logits, Prediction
from vesalius.predict.segment import all_or_nothing, combine_prompts, object_map

BOXES = [(0, 0, 10, 10), (20, 0, 30, 10)]


def _said(prompts):
    return [(prompt.box, prompt.points.tolist(), prompt.labels.tolist()) for prompt in prompts]


def test_without_boxes_all_clicks_are_about_one_object():
    prompts = combine_prompts([], [(1, 2, 1), (3, 4, 0)], None)
    assert _said(prompts) == [(None, [[1, 2], [3, 4]], [1, 0])]


def test_one_box_takes_the_clicks_and_the_mask_even_outside_of_it():
    mask = np.ones((40, 40), bool)
    (prompt,) = combine_prompts(BOXES[:1], [(35, 5, 0)], mask)
    assert _said([prompt]) == [((0, 0, 10, 10), [[35, 5]], [0])]
    assert prompt.mask is mask


def test_with_several_boxes_a_click_belongs_to_the_one_around_it():
    prompts = combine_prompts(BOXES, [(25, 5, 0), (2, 2, 1), (21, 1, 1)], None)
    assert _said(prompts) == [((0, 0, 10, 10), [[2, 2]], [1]), ((20, 0, 30, 10), [[25, 5], [21, 1]], [0, 1])]


def test_a_box_is_half_open_for_clicks_too():
    inside = combine_prompts(BOXES, [(9, 9, 1)], None)
    assert inside[0].points.tolist() == [[9, 9]]
    with pytest.raises(PromptError, match="point 10,9 lies in none of the 2 boxes"):
        combine_prompts(BOXES, [(10, 9, 1)], None)


@pytest.mark.parametrize(
    ("boxes", "clicks", "mask", "message"),
    [
        (BOXES, [(15, 5, 1)], None, "lies in none of the 2 boxes"),
        ([(0, 0, 10, 10), (5, 0, 30, 10)], [(7, 5, 1)], None, "lies in 2 of the 2 boxes"),
        (BOXES, [], np.ones((40, 40), bool), "which object the mask belongs to"),
        ([], [], None, "prompt is empty"),
        ([(10, 0, 5, 10), (0, 0, 5, 5)], [], None, "inverted"),
    ],
)
def test_what_is_not_clear_is_refused(boxes, clicks, mask, message):
    with pytest.raises(PromptError, match=message):
        combine_prompts(boxes, clicks, mask)


def _prediction(mask, quality):
    return Prediction(mask, quality, Logits(np.zeros((2, 2), np.float32), Frame.stretch(mask.shape, 2)))


def test_a_name_belongs_to_the_one_object():
    (prompt,) = combine_prompts(BOXES[:1], [(5, 5, 1)], None, "liver")
    assert (prompt.text, prompt.box, len(prompt.points)) == ("liver", BOXES[0], 1)
    (prompt,) = combine_prompts([], [], None, "liver")
    assert prompt.text == "liver"
    with pytest.raises(PromptError, match=r"a text and 2 boxes: .* segment that object on its own"):
        combine_prompts(BOXES, [], None, "liver")


def test_one_object_is_a_mask_several_are_numbered_and_the_surer_one_keeps_what_both_claim():
    first, second = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    first[:, :3], second[:, 2:] = True, True

    assert object_map([_prediction(first, 0.9)]) is first
    assert object_map([_prediction(first, 0.9), _prediction(second, 0.5)]).tolist() == [[1, 1, 1, 2]] * 2
    assert object_map([_prediction(first, 0.5), _prediction(second, 0.9)]).tolist() == [[1, 1, 2, 2]] * 2


def test_outputs_appear_together_or_not_at_all(tmp_path):
    outputs = [tmp_path / "a.txt", tmp_path / "b.txt"]
    outputs[0].write_text("old")

    def fail_midway():
        with all_or_nothing(outputs) as place:
            place[outputs[0]].write_text("new")
            raise ValueError("midway")

    with pytest.raises(ValueError, match="midway"):
        fail_midway()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert outputs[0].read_text() == "old"

    with all_or_nothing(outputs) as place:
        for path in outputs:
            place[path].write_text(path.name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]
    assert outputs[0].read_text() == "a.txt"


def test_an_error_about_a_stand_in_names_the_output(tmp_path):
    out = tmp_path / "a.txt"
    with pytest.raises(WriteError) as caught, all_or_nothing([out]) as place:
        raise WriteError("is impossible", path=place[out], remedy="do without")
    assert str(caught.value) == f"{out}: is impossible; do without"


def test_what_the_system_refuses_is_a_write_error(tmp_path):
    out = tmp_path / "absent" / "a.txt"
    with pytest.raises(WriteError, match=r"a\.txt: cannot be written"), all_or_nothing([out]):
        pass
