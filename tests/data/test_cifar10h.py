"""The reader of CIFAR-10H, votes recovered from their shares, and, where they are present, the published rows."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bcpd.data.cifar10h import FEWEST_VOTES, MOST_VOTES, HumanLabels, human_mixture, read_cifar10h
from bcpd.measure import distance_to_votes

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = [Path(os.environ["BCPD_DATA"])] if "BCPD_DATA" in os.environ else []
PLACES = [folder / part for folder in [*FOLDERS, ROOT.parent / "shared" / "data"] for part in ("cifar-10h", "cifar10")]
LABELS = ROOT.parent / "shared" / "data" / "cifar10" / "test_order_labels.npy"


def ballots(n: int = 400, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Labels, and what 47 to 63 people with a few doubts say about them: counts ``(n, 10)``."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 10, n)
    doubt = rng.beta(0.15, 3.0, n)
    doubt[: n // 3] = 0
    p = (1 - doubt[:, None]) * np.eye(10)[y] + doubt[:, None] * np.eye(10)[(y + rng.integers(1, 10, n)) % 10]
    counts = np.stack([rng.multinomial(m, row) for m, row in zip(rng.integers(47, 64, n), p, strict=True)])
    return torch.tensor(y), torch.tensor(counts)


def write(folder: Path, **files: np.ndarray | Tensor) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in files.items():
        np.save(folder / f"cifar10h-{name}.npy", np.asarray(table))
    return folder


def shares_of(counts: Tensor) -> Tensor:
    return counts.double() / counts.sum(-1, keepdim=True)


# ------------------------------------------------------------------------------------------------- votes from shares

NUMBERS = range(FEWEST_VOTES, MOST_VOTES + 1)
ROWS = st.sampled_from(NUMBERS).flatmap(
    lambda m: st.tuples(st.integers(0, m), st.integers(0, m)).map(lambda cuts: np.diff([0, *sorted(cuts), m]).tolist())
)


@settings(max_examples=25)
@given(st.lists(ROWS, min_size=1, max_size=12), st.sampled_from([torch.float64, torch.float32]))
def test_votes_are_recovered_where_one_number_fits_and_bounded_where_several_do(
    rows: list[list[int]], dtype: torch.dtype
) -> None:
    counts = torch.tensor(rows)
    human = HumanLabels.from_shares(shares_of(counts).to(dtype))
    least, typical, most = (human.counts_at(which) for which in ("least", "typical", "most"))
    for completed in (least, typical, most):
        torch.testing.assert_close(shares_of(completed), shares_of(counts))
    for place, row in enumerate(rows):
        total = sum(row)
        fitting = [m for m in NUMBERS if all(m * count % total == 0 for count in row)]
        assert (int(human.fewest[place]), int(human.most[place])) == (fitting[0], fitting[-1])
        assert (int(least[place].sum()), int(most[place].sum())) == (fitting[0], fitting[-1])
        assert int(typical[place].sum()) in fitting
        assert int(human.votes[place]) == (total if len(fitting) == 1 else 0)
        assert human.counts[place].tolist() == (row if len(fitting) == 1 else [0, 0, 0])


@pytest.mark.parametrize("total", [300, 500, 1000])
def test_many_votes_are_recovered_from_shares_in_float32(total: int) -> None:
    cuts = torch.randint(0, total + 1, (200, 2), generator=torch.Generator().manual_seed(total)).sort(-1).values
    counts = torch.cat([cuts, torch.full((200, 1), total)], -1).diff(dim=-1, prepend=torch.zeros(200, 1).long())
    human = HumanLabels.from_shares(shares_of(counts).float(), total - 20, total)
    assert bool((human.most == total).all())
    assert int((human.votes == total).sum()) > 150  # few fractions can be reduced to another total in the range


def test_a_typical_number_is_the_nearest_to_the_known_ones() -> None:
    """Known: 53 and 59. A half fits 48, 50, ..., 62, of which 56 is nearest; a third 48, 51, ..., 63, of which 57."""
    shares = [[52 / 53, 1 / 53, 0.0], [1 / 59, 0.0, 58 / 59], [0.5, 0.0, 0.5], [1 / 3, 1 / 3, 1 / 3], [0.0, 1.0, 0.0]]
    human = HumanLabels.from_shares(shares)
    assert human.known.tolist() == [True, True, False, False, False]
    assert human.counts_at().sum(-1).tolist() == [53, 59, 56, 57, 56]
    assert human.subset(torch.tensor([2, 0])).votes.tolist() == [0, 53]
    unknown = human.subset(torch.tensor([2, 4]))
    assert unknown.counts_at().sum(-1).tolist() == [54, 55]


def test_shares_that_are_no_votes_are_kept_but_have_no_counts() -> None:
    human = HumanLabels.from_shares([[0.31831, 0.68169], [0.25, 0.75]])
    assert (human.fewest.tolist(), human.most.tolist()) == ([0, 48], [0, 60])
    with pytest.raises(ValueError, match="the votes of 1 of 2 rows are not known: no number of votes fits"):
        human.counts_at()
    other_range = HumanLabels.from_shares([[0.3, 0.7], [0.25, 0.75]], 2, 11)
    assert other_range.votes.tolist() == [10, 0]
    assert other_range.most.tolist() == [10, 8]


def test_what_is_not_known_of_m_moves_a_debiased_distance_by_little_and_not_at_all_where_people_agree() -> None:
    _, counts = ballots(2000, 1)
    human = HumanLabels.from_shares(shares_of(counts))
    assert 0.2 < float(human.known.double().mean()) < 0.9
    q = torch.full((2000, 10), 0.1, dtype=torch.float64)
    least, true, most = (
        distance_to_votes(q, votes)["mse"].value
        for votes in (human.counts_at("least"), counts, human.counts_at("most"))
    )
    assert least <= true <= most
    assert most - least < 1e-4
    # a wrong way: m - 1 = 1 for those rows, as if nothing were known, is far outside
    careless = HumanLabels.from_shares(shares_of(counts), 2, 63).counts_at("least")
    assert distance_to_votes(q, careless)["mse"].value < least - 1e-4
    agreed = human.probabilities.amax(-1) == 1
    assert int((agreed & ~human.known).sum()) == int(agreed.sum()) > 500
    one_hot = human.subset(agreed.nonzero()[:, 0])
    values = [distance_to_votes(q[agreed], one_hot.counts_at(which)) for which in ("least", "most")]  # type: ignore[arg-type]
    assert values[0]["mse"] == values[1]["mse"]
    assert values[0]["vote_noise"].value == 0


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("part", ["", "cifar-10h", "cifar-10h/data", "data"])
def test_the_files_are_found_in_the_usual_places(tmp_path: Path, part: str) -> None:
    y, counts = ballots()
    write(tmp_path / part, probs=shares_of(counts))
    human = read_cifar10h(str(tmp_path), y)
    assert len(human) == 400
    assert human.probabilities.dtype == torch.float64
    assert torch.equal(human.probabilities, shares_of(counts))
    assert torch.equal(human.counts[human.known], counts[human.known])


def test_counts_are_preferred_and_must_agree_with_the_shares(tmp_path: Path) -> None:
    y, counts = ballots()
    write(tmp_path, counts=counts.to(torch.int32), probs=shares_of(counts).float())
    human = read_cifar10h(tmp_path, y)
    assert bool(human.known.all())
    assert torch.equal(human.counts, counts)
    assert torch.equal(human.votes, counts.sum(-1))
    assert torch.equal(human.counts_at("least"), counts)
    assert torch.equal(human.probabilities, shares_of(counts))
    write(tmp_path, probs=shares_of(counts.roll(1, 0)))
    with pytest.raises(ValueError, match="must hold the same shares, received two that differ"):
        read_cifar10h(tmp_path, y)


def test_rows_or_classes_in_another_order_are_refused(tmp_path: Path) -> None:
    y, counts = ballots()
    write(tmp_path, probs=shares_of(counts))
    assert read_cifar10h(tmp_path, y).agreement(y) > 0.95
    for wrong in (y.flip(0), y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))], (y + 1) % 10):
        with pytest.raises(
            ValueError, match=r"most people say at 95% of the images, received \d+\.\d%: .* another order"
        ):
            read_cifar10h(tmp_path, wrong)
    # labels cannot see an exchange within a class
    exchanged = torch.cat([(y == k).nonzero()[:, 0].roll(1) for k in range(10)])
    home = torch.cat([(y == k).nonzero()[:, 0] for k in range(10)])
    moved = shares_of(counts)
    moved[home] = shares_of(counts)[exchanged]
    write(tmp_path, probs=moved)
    assert read_cifar10h(tmp_path, y).agreement(y) > 0.95


def test_agreement_counts_ties() -> None:
    human = HumanLabels.from_counts([[25, 25, 0], [10, 40, 0], [0, 1, 49]])
    assert human.agreement([1, 0, 2]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"labels must have shape \(3,\), received \(2,\)"):
        human.agreement([1, 0])
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2, received 3"):
        human.agreement([1, 0, 3])


def test_a_file_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    y, counts = ballots()
    path = tmp_path / "cifar10h-probs.npy"
    with pytest.raises(FileNotFoundError, match=r"no file cifar10h-counts\.npy or cifar10h-probs\.npy in .*jcpeterson"):
        read_cifar10h(tmp_path)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="must be a NumPy file of plain numbers"):
        read_cifar10h(tmp_path)
    path.write_bytes(b"0.1,0.9\n")
    with pytest.raises(ValueError, match="must be a NumPy file of plain numbers"):
        read_cifar10h(tmp_path)
    write(tmp_path, probs=shares_of(counts))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="must be a NumPy file of plain numbers"):
        read_cifar10h(tmp_path, y)
    write(tmp_path, probs=shares_of(counts))
    with pytest.raises(
        ValueError, match=r"must hold numbers of shape \(10000, 10\), received float64 of shape \(400, 10\)"
    ):
        read_cifar10h(tmp_path)
    write(tmp_path, probs=shares_of(counts)[:, :9])
    with pytest.raises(ValueError, match=r"received float64 of shape \(400, 9\)"):
        read_cifar10h(tmp_path, y)
    write(tmp_path, probs=100 * shares_of(counts))
    with pytest.raises(ValueError, match="shares must be rows of probabilities"):
        read_cifar10h(tmp_path, y)
    write(tmp_path, counts=shares_of(counts))
    with pytest.raises(ValueError, match="counts must be whole numbers"):
        read_cifar10h(tmp_path, y)


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="1 <= fewest <= most <= 1000 must hold, received 5 and 4"):
        HumanLabels.from_shares([[0.5, 0.5]], 5, 4)
    with pytest.raises(ValueError, match=r"counts must have shape \(n, K\)"):
        HumanLabels.from_counts([3, 4])
    with pytest.raises(ValueError, match="at least one vote a row"):
        HumanLabels.from_counts([[3, 4], [0, 0]])
    with pytest.raises(ValueError, match="which must be one of"):
        HumanLabels.from_counts([[3, 4]]).counts_at("mean")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------- as a mixture


def test_people_as_a_world_of_exact_sums() -> None:
    _, counts = ballots()
    human = HumanLabels.from_counts(counts)
    world = human_mixture(human)
    assert world.shape == (1,)
    torch.testing.assert_close(world.posterior([[3.0], [399.0]]), human.probabilities[[3, 399]], rtol=1e-14, atol=0)
    assert world.bayes_error().method == "exact"
    assert world.bayes_error().value == pytest.approx(float(1 - human.probabilities.amax(-1).mean()), abs=1e-14)
    torch.testing.assert_close(world.priors, human.probabilities.mean(0), rtol=1e-12, atol=1e-15)
    pictures = torch.rand(20, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    chosen = torch.arange(0, 400, 20)
    shown = human_mixture(human.subset(chosen), pictures)
    assert shown.shape == (3, 4, 4)
    torch.testing.assert_close(shown.posterior(pictures), human.probabilities[chosen], rtol=1e-14, atol=0)


# ------------------------------------------------------------------------------------------------------ published rows


def test_the_published_rows() -> None:
    """10,000 rows, all of them votes of 47 to 60 people, in the order of the labels where those are here."""
    place = next((place for place in PLACES if (place / "cifar10h-probs.npy").is_file()), None)
    if place is None:
        pytest.skip("CIFAR-10H is not here: no cifar10h-probs.npy below BCPD_DATA or ../shared/data")
    human = read_cifar10h(place)
    if LABELS.is_file():
        y = torch.tensor(np.load(LABELS).astype(np.int64))
        assert read_cifar10h(place, y).agreement(y) == pytest.approx(0.9923, abs=5e-5)
        with pytest.raises(ValueError, match="another order"):
            read_cifar10h(place, y.roll(1))
    assert len(human) == 10_000
    if not bool(human.known.all()):
        one_hot = human.probabilities.amax(-1) == 1
        assert int(human.most.min()) >= FEWEST_VOTES
        assert (int(human.known.sum()), int(one_hot.sum()), int((~human.known & ~one_hot).sum())) == (5565, 4393, 42)
    votes = human.votes[human.known]
    assert (int(votes.min()), int(votes.max())) == (47, 60)
    assert abs(int(human.counts_at().sum()) - 511_400) < 1000
    q = torch.full((10_000, 10), 0.1, dtype=torch.float64)
    least, most = (distance_to_votes(q, human.counts_at(which))["mse"].value for which in ("least", "most"))
    assert 0 <= most - least < 1e-5
    assert human_mixture(human).bayes_error().value == pytest.approx(0.04556, abs=1e-5)
