"""What the measuring tests share."""

from __future__ import annotations

import pytest

from bcpd.measure import decomposition


@pytest.fixture
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cheaper regressions, for tests of what surrounds them."""
    monkeypatch.setattr(decomposition, "_TREES", 30)
