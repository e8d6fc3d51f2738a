import numpy as np

from vesalius.corpus.layers import pack
from vesalius.io.regions import CutOut, Region, cut_out


def region(value: int, name: str, where: tuple[slice, ...], one: bool = True) -> Region:
    mask = np.zeros((3, 20, 30), bool)
    mask[where] = True
    planes = {z: part for z in range(3) if (part := cut_out(mask[z])) is not None}
    return Region(value, name, planes, one)


def test_regions_lie_in_the_first_layer_with_room() -> None:
    regions = [
        region(1, "a", np.s_[0, 2:8, 2:8]),
        region(2, "b", np.s_[0, 7:9, 7:9]),
        region(3, "a", np.s_[0, 8:9, 2:8]),
        region(4, "c", np.s_[1, 2:8, 2:8]),
        region(5, "d", np.s_[0:2, 8:12, 8:12]),
        region(300, "e", np.s_[2, 0:1, 0:1], one=False),
        region(7, "f", np.s_[0:0, 0:1, 0:1]),
    ]
    layers = pack(regions, (3, 20, 30))
    assert [(layer.objects, dict(layer.names)) for layer in layers] == [
        (True, {1: "a", 3: "a", 4: "c", 5: "d"}),
        (True, {2: "b"}),
        (False, {300: "e"}),
    ]
    assert all(layer.values.dtype == np.uint16 for layer in layers)
    for given in regions[:-1]:
        (layer,) = (layer for layer in layers if given.value in layer.names)
        for z in range(3):
            expected = np.zeros((20, 30), bool)
            if z in given.planes:
                expected[given.planes[z].where] = given.planes[z].mask
            np.testing.assert_array_equal(layer.values[z] == given.value, expected)


def test_boxes_may_overlap_where_masks_do_not() -> None:
    one, other = np.eye(5, dtype=bool), ~np.eye(5, dtype=bool)
    layers = pack([Region(1, "a", {0: CutOut(one)}), Region(2, "b", {0: CutOut(other)})], (1, 5, 5))
    assert len(layers) == 1
    np.testing.assert_array_equal(layers[0].values[0], np.where(one, 1, 2))


def test_nothing_makes_no_layer() -> None:
    assert pack([], (1, 5, 5)) == ()
    assert cut_out(np.zeros((4, 4), bool)) is None
