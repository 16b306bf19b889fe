"""A table of a teacher says what the teacher says, of the very view that the student sees."""

from typing import Any

import pytest
import torch
from shared_runs import Conv
from small_world import K, furthest, mlp, world
from test_graphs import GRAPHS, images
from torch import Tensor

import bcpd
from bcpd.data import AUGMENTATIONS, FreshSamples, InMemory
from bcpd.distill import AT, CRD, HSAKD, KD, PKT, Method
from bcpd.mixtures import paper_toy
from bcpd.nets import Views
from bcpd.train import Execution, Fitted, Recipe, TeacherTable

SGD = Recipe(epochs=3, learning_rate=0.05, batch_size=8, weight_decay=0.01, validation=0.25)


class Counted(Conv):
    """Counts the inputs that it was asked for."""

    asked = 0

    def forward(self, x: Tensor) -> Views:
        self.asked += len(x)
        return super().forward(x)


def run(teacher: Any, method: Method, source: InMemory, **options: Any) -> Fitted:
    return bcpd.fit(Conv(1, norm=True), source, method, SGD, seed=0, teacher=teacher, **options)


@pytest.mark.parametrize("augment", [None, *AUGMENTATIONS])
def test_every_row_is_the_teachers_answer_to_that_view(augment: Any) -> None:
    source, teacher = images(augment=augment), Conv(5, norm=True).eval()
    table = TeacherTable(teacher, source, views=("logits", "pooled"))
    seen: list[tuple[int, int]] = []
    table.fill(lambda done, total: seen.append((done, total)))
    assert table.full
    assert seen[-1] == (source.num_views, source.num_views)
    stream = torch.Generator().manual_seed(3)
    index = torch.randint(len(source), (50,), generator=stream)
    view = None if augment is None else torch.randint(source.num_views, (50,), generator=stream)
    batch = source.batch(index, views=view)
    expected, found = teacher(batch.x), table.at(index, view)
    assert torch.allclose(found.logits, expected.logits, rtol=0, atol=1e-12)
    assert torch.allclose(found.pooled, expected.pooled, rtol=0, atol=1e-12)
    if augment is not None:
        assert view is not None
        other = table.at(index, (view + 1) % source.num_views)
        assert not torch.allclose(other.logits, expected.logits, rtol=0, atol=1e-3), "another view, another answer"


@pytest.mark.parametrize("filled", [True, False])
@pytest.mark.parametrize("method", [lambda: KD(2.0), lambda: PKT(), lambda: CRD(images().y, negatives=5, dimension=6)])
def test_a_student_of_the_table_is_the_teachers_student(method: Any, filled: bool) -> None:
    source = images(augment="crop-flip")
    teacher = Counted(5, norm=True)
    live = run(teacher, method(), source)
    table = TeacherTable(teacher, source, views=("logits", "pooled"))
    if filled:
        table.fill()
    teacher.asked = 0
    looked_up = run(table, method(), source)
    assert furthest(live.states["last"], looked_up.states["last"]) < 1e-11
    assert live.identity != looked_up.identity, "the last bits differ, and so does the run"
    first = teacher.asked
    run(table, method(), source)
    # what was asked for once is known; what remains are two looks at the start and the unaugmented validation images
    assert teacher.asked - first <= 2 + 10
    assert first >= 30 or filled


def test_an_incomplete_table_computes_what_is_missing_once() -> None:
    source, teacher = images(augment="flip"), Counted(5)
    table = TeacherTable(teacher, source)
    teacher.asked = 0
    index, view = torch.tensor([3, 3, 7, 9]), torch.tensor([0, 0, 1, 1])
    table.at(index, view)
    assert teacher.asked == 3, "one row twice in a batch is computed once"
    table.at(index, view)
    table.at(torch.tensor([7, 8]), torch.tensor([1, 1]))
    assert teacher.asked == 4
    assert not table.full
    table.fill()
    assert teacher.asked == 2 * len(source)
    assert table.full


def test_sixteen_bits_are_eleven() -> None:
    source, teacher = images(augment="flip"), Conv(5)
    whole, half = TeacherTable(teacher, source), TeacherTable(teacher, source, dtype=torch.float16)
    index, view = torch.arange(40), torch.ones(40, dtype=torch.int64)
    left, right = whole.at(index, view).logits, half.at(index, view).logits
    assert right.dtype == left.dtype
    assert 0 < float((left - right).abs().max()) < 2**-10 * float(left.abs().max())
    assert half.nbytes * 4 == whole.nbytes
    assert half.describe() == {"views": ["logits"], "dtype": "float16"}


def test_what_is_not_tabulated_is_refused_before_the_first_step() -> None:
    source = images(augment="crop-flip")
    table = TeacherTable(Conv(5), source)
    with pytest.raises(ValueError, match=r"AT needs teacher.stages, but the teacher network offers no stages"):
        run(table, AT(), source)
    with pytest.raises(ValueError, match=r"PKT needs teacher.pooled, but the teacher network offers no pooled"):
        run(table, PKT(), source)


def test_inputs_that_a_method_changes_are_refused() -> None:
    class Noisy(KD):
        def prepare(self, batch: Any, generator: torch.Generator) -> Any:
            from dataclasses import replace

            return replace(batch, x=batch.x + 1)

    source = images(augment="crop-flip")
    with pytest.raises(ValueError, match="Noisy changes the inputs of a batch, of which a table"):
        run(TeacherTable(Conv(5), source), Noisy(2.0), source)
    assert HSAKD.prepare is not Method.prepare


def test_other_data_are_refused() -> None:
    source = images(augment="crop-flip")
    table = TeacherTable(Conv(5), source)
    run(table, KD(2.0), images(augment="crop-flip"), held_out=None)
    with pytest.raises(ValueError, match=r"made for other inputs: 40 .* augment='crop-flip' .* augment='flip'"):
        run(table, KD(2.0), images(augment="flip"))
    moved = InMemory(source.x + 1, source.y, num_classes=K, augment="crop-flip", dtype=torch.float64)
    with pytest.raises(ValueError, match="the table was made for other inputs"):
        run(table, KD(2.0), moved)
    with pytest.raises(ValueError, match=r"examples that stay the same .* received FreshSamples"):
        TeacherTable(mlp(5), FreshSamples(paper_toy(K, 4, variance=2.0), 40, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"examples that stay the same .* received 2 replicas"):
        TeacherTable(mlp(5), world(40, [0, 1]))
    with pytest.raises(ValueError, match=r"views must be 'logits' and perhaps 'pooled', received \('stages',\)"):
        TeacherTable(Conv(5), source, views=("stages",))
    with pytest.raises(ValueError, match=r"dtype must be a floating-point type, received torch.int8"):
        TeacherTable(Conv(5), source, dtype=torch.int8)
    with pytest.raises(ValueError, match="the batch does not say which views it shows"):
        table.at(torch.arange(3))


def test_captured_steps_need_a_whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Execution, "check", lambda self, device: None)
    source = images(augment="crop-flip")
    with pytest.raises(ValueError, match=r"whole table of the teacher: call its fill\(\) first"):
        run(TeacherTable(Conv(5), source), KD(2.0), source, execution=GRAPHS)
