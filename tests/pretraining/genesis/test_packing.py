"""What travels to the device says what was drawn."""

import numpy as np

from pretraining.genesis import cpu
from pretraining.genesis.packing import BENT, BOXES, ELASTIC, PAINTED, SHUFFLE_SEED, SHUFFLED, pack
from pretraining.genesis.sampling import GenesisSettings, sample

SETTINGS = GenesisSettings(transformations=("flip", "elastic", "shuffle", "nonlinear", "inpaint", "outpaint"))


def word_pair(seed: int) -> list[int]:
    return [seed & 0xFFFFFFFF, seed >> 32]


def test_every_parameter_is_packed() -> None:
    seen = set()
    for seed in range(400):
        drawn = sample(np.random.default_rng(seed), (2, 12, 16, 20), SETTINGS)
        patch, channels, tables = pack(drawn, SETTINGS)
        assert patch[:ELASTIC].tolist() == [axis in drawn.flip_axes for axis in range(3)]
        assert patch[ELASTIC:].view(np.uint32).tolist() == word_pair(drawn.elastic)
        for channel, row, table in zip(drawn.channels, channels, tables, strict=True):
            assert bool(row[SHUFFLED]) == (channel.shuffle is not None)
            assert bool(row[BENT]) == (channel.curve is not None)
            if channel.shuffle is not None:
                assert row[SHUFFLE_SEED : SHUFFLE_SEED + 2].view(np.uint32).tolist() == word_pair(channel.shuffle)
            if channel.curve is not None:
                expected = cpu.curve_table(*channel.curve.control, channel.curve.inverted)
                np.testing.assert_array_equal(table, expected)
            painting = channel.painting
            assert row[PAINTED] == (0 if painting is None else 1 + painting.show)
            boxes = [tuple(box) for box in row[BOXES:].reshape(-1, 6).tolist()]
            assert tuple(box for box in boxes if any(box)) == (painting.boxes if painting else ())
            seen.add((bool(row[SHUFFLED]), bool(row[BENT]), int(row[PAINTED])))
        assert (patch.dtype, channels.dtype, tables.dtype) == (np.int32, np.int32, np.float32)
    assert len(seen) == 12


def test_shapes_are_the_same_for_every_seed() -> None:
    shapes = {
        tuple(array.shape for array in pack(sample(np.random.default_rng(seed), (3, 8, 8), SETTINGS), SETTINGS))
        for seed in range(50)
    }
    assert shapes == {((5,), (3, BOXES + 30), (3, 4097))}
