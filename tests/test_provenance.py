"""The digests change with what they are of and with nothing else; seconds survive a session."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from bcpd import provenance
from bcpd.provenance import Stopwatch, code_digest, source_digest


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that can be imported as ``some_module_of_a_test``."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "some_module_of_a_test.py"


def digest_of(path: Path, source: str) -> str:
    path.write_text(source)
    return source_digest(path.stem)


SOURCE = '"""Says."""\nX = 1\n"""Of X."""\n\n\nclass C:\n    """Says."""\n\n    def f(self):\n        return X\n'


def test_wording_leaves_the_digest_of_a_source_and_computation_does_not(module: Path) -> None:
    before = digest_of(module, SOURCE)
    assert digest_of(module, SOURCE.replace("Says", "Tells").replace("Of X", "X is one")) == before
    assert digest_of(module, SOURCE.replace("X = 1", "X  =  1  # one").replace('    """Says."""\n\n', "")) == before
    assert digest_of(module, SOURCE.replace("X = 1", "X = 2")) != before
    assert digest_of(module, SOURCE.replace("return X", 'return "X"')) != before
    assert module.stem not in sys.modules


def test_a_module_that_cannot_be_found_is_named() -> None:
    with pytest.raises(ValueError, match="received 'no_such_module_at_all'"):
        source_digest("bcpd.targets", "no_such_module_at_all")
    assert source_digest("bcpd.targets") != source_digest("bcpd.targets", "bcpd.stats")


def test_the_code_digest_is_of_the_experiments_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "bcpd"
    package.mkdir()
    shutil.copy(provenance.__file__, package / "provenance.py")
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    spec = provenance.find_spec("experiments")
    assert spec is not None
    spec.origin = str(tmp_path / "experiments" / "__init__.py")
    (tmp_path / "experiments").mkdir()
    one = tmp_path / "experiments" / "one.py"
    one.write_text("x = 1\n")

    def digest(found: object) -> str:
        monkeypatch.setattr(provenance, "find_spec", lambda name: found)
        code_digest.cache_clear()
        return code_digest()

    try:
        alone, both = digest(None), digest(spec)
        assert both != alone
        one.write_text("x = 2\n")
        assert digest(spec) not in (both, alone)
        assert digest(None) == alone
    finally:
        code_digest.cache_clear()


def test_seconds_of_sessions_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(provenance.time, "monotonic", lambda: now[0])
    path = tmp_path / "new" / "seconds.json"
    first = Stopwatch(path)
    now[0] += 7
    assert first.lap() == 7
    now[0] += 3
    assert first.lap() == 10
    now[0] += 1000  # nobody is at work
    second = Stopwatch(path)
    now[0] += 5
    assert second.lap() == 15


@pytest.mark.parametrize("content", ["", "[]", '{"seconds": null}', '{"minutes": 3}'])
def test_a_file_that_is_no_stopwatch_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "seconds.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"seconds.json must hold .*remove it"):
        Stopwatch(path)
