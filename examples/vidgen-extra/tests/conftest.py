"""What all tests share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_random_numbers_in_every_test() -> None:
    """So that no test fails now and then."""
    torch.manual_seed(0)
