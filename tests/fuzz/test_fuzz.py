"""A short run of the fuzzer, and that it sees what it must."""

import numpy as np
import pytest

from tests.fuzz import mutations
from tests.fuzz.mutations import Mutated
from tests.fuzz.reader import Reader
from tests.fuzz.run import fuzz
from tests.fuzz.samples import SAMPLES


@pytest.mark.parametrize("kind", SAMPLES)
def test_damaged_files_are_refused_by_name_or_read_rightly(kind):
    verdicts = list(fuzz(kind, 50, seed=0))
    bad = [f"{number}, {mutated.how}: {verdict}" for number, mutated, verdict in verdicts if not verdict.good]
    assert not bad, "\n".join(bad)
    assert {verdict.kind for _, _, verdict in verdicts} == {"refused", "accepted"}


def test_the_same_seed_gives_the_same_files():
    rngs = [np.random.default_rng(7) for _ in range(2)]
    first, again = (mutations.mutate("nifti", SAMPLES["nifti"](rng), rng) for rng in rngs)
    assert first == again


def test_the_oracle_sees_other_voxels_and_parts_that_are_missing():
    rng = np.random.default_rng(0)
    one, other = SAMPLES["metaimage"](rng), SAMPLES["metaimage"](rng)
    with Reader() as reader:
        assert reader.judge(one, Mutated(one, "nothing")).kind == "accepted"
        assert "checksum does not fit" in reader.judge(one, Mutated(other, "another scan", sealed=True)).message
        assert "accepted, though" in reader.judge(one, Mutated(one, "nothing", wrong=True)).message
        assert reader.judge(one, Mutated({"a.mha": b"x"}, "no scan")).kind == "refused"
