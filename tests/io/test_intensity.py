from __future__ import annotations

import numpy as np
import pytest

from vesalius.core.errors import ConfigError
from vesalius.io.intensity import WINDOWS, grey_window, window_range


def test_named_windows_are_medsams() -> None:
    widths_and_levels = {"soft_tissue": (400, 40), "lung": (1500, -160), "brain": (80, 40), "bone": (1800, 400)}
    assert {name: (width, level) for name, (level, width) in WINDOWS.items()} == widths_and_levels


def test_forms_of_a_window() -> None:
    assert window_range("soft_tissue") == window_range("40/400") == window_range((40, 400)) == (-160.0, 240.0)
    assert window_range("-600/1500.5") == (-1350.25, 150.25)


@pytest.mark.parametrize(
    "window", ["liver", "40", "40/400/2", "40/x", "", (1.0,), "40/0", "40/-3", "nan/10", (0, np.inf)]
)
def test_senseless_windows(window: object) -> None:
    with pytest.raises(ConfigError, match="window"):
        window_range(window)  # type: ignore[arg-type]


def test_order_of_the_rule() -> None:
    bytes_ = np.arange(200, dtype=np.uint8)
    assert grey_window(bytes_, picture=True) == (0.0, 255.0)
    assert grey_window(bytes_, picture=True, modality="ct") == (0.0, 255.0)  # eight bits hold no Hounsfield units
    assert grey_window(bytes_, picture=True, window="brain") == (0.0, 80.0)
    assert grey_window(bytes_, modality="ct") == (-160.0, 240.0)
    assert grey_window(bytes_) == pytest.approx(tuple(np.percentile(bytes_[1:], (0.5, 99.5))))


def test_percentiles_leave_out_zero_only() -> None:
    values = np.concatenate([np.zeros(10_000), np.linspace(-50, 50, 1001)])
    assert grey_window(values) == pytest.approx((-49.55, 49.55), abs=0.1)


def test_nearly_constant_values_use_the_whole_range() -> None:
    values = np.full(1000, 5.0)
    values[0] = 9.0
    assert grey_window(values) == (5.0, 9.0)
    assert grey_window(np.array([0, 0, 0, 1], np.int16)) == (0.0, 1.0)
