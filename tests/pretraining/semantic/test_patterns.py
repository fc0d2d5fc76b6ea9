"""Self-discovery: places, neighbours, crops, and the index on disk."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from cases.case import open_array, read_info
from pretraining.semantic import files as pf
from pretraining.semantic import patterns as pa
from tests.conftest import put_case

SMALL = pa.PatternSettings(
    cube_size=(8, 6, 4),
    classes=6,
    instances=10,
    val_instances=3,
    border=(2, 1, 3),
    distance=3,
    tissue_filter=False,
)


def extents(n: int, shape: tuple[int, int, int] = (12, 16, 20)) -> pa.Extents:
    return pa.Extents(start=np.zeros((n, 3), np.int64), shape=np.tile(shape, (n, 1)))


def features(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 5)).astype(np.float32)


def names(n: int) -> list[str]:
    return [f"case_{i:03d}" for i in range(n)]


def found(n: int = 40, **changes: object) -> pa.Patterns:
    settings = pa.PatternSettings(**{**vars(SMALL), **changes})
    return pa.discover(names(n), features(n), extents(n), names(n)[30:], settings, say=lambda line: None)


def test_rows_are_what_the_settings_ask_for() -> None:
    patterns = found()
    assert patterns.training.shape == (6 * 10 * 3, 8) and patterns.validation.shape == (6 * 3, 8)
    assert patterns.training[:, 1].max() < 30 and patterns.validation[:, 1].min() >= 30
    np.testing.assert_array_equal(patterns.training[:, 0], np.repeat(np.arange(6), 30))
    first = patterns.training[::3]
    np.testing.assert_array_equal(first[:, 2:5], np.repeat(patterns.places[:, 1:], 10, axis=0))
    assert (first[:, 5:] == (4, 6, 8)).all()
    assert len(set(patterns.places[:, 0].tolist())) == 6
    np.testing.assert_array_equal(first[::10, 1], patterns.places[:, 0])  # nobody is nearer to a scan than itself


def test_places_keep_border_and_distance() -> None:
    places = found(border=(3, 2, 2)).places[:, 1:]
    assert (places.min(0) >= (2, 2, 3)).all() and (places.max(0) <= (12 - 4 - 2, 16 - 6 - 2, 20 - 8 - 3)).all()
    apart = np.sqrt(((places[:, None] - places[None]) ** 2).sum(2))
    assert apart[np.triu_indices(6, 1)].min() >= 3


def test_other_resolutions_stay_in_the_scan() -> None:
    patterns = found(instances=30, cube_size=(16, 12, 4), zoom=(0.5, 1.4), shift=0.3, distance=0)
    rows = patterns.training.reshape(6, 30, 3, 8)
    more = rows[:, :, 1:]
    assert (rows[..., 2:5] >= 0).all() and (rows[..., 2:5] + rows[..., 5:] <= (12, 16, 20)).all()
    assert (more[..., 5] == 4).all()
    assert set(more[..., 6].ravel().tolist()) == set(range(6, 16))  # 12 * 0.5 up to below 12 * 1.4
    assert set(more[..., 7].ravel().tolist()) == set(range(8, 21))
    moved = more[..., 4] - rows[:, :, :1, 4]
    assert moved.min() < 0 < moved.max()
    assert found(multi_res=False).training.shape == (60, 8)


def test_nearest_is_scikit_learns() -> None:
    rows, centres = features(50), features(7, seed=1)
    expected = NearestNeighbors(n_neighbors=9).fit(rows).kneighbors(centres, return_distance=False)
    np.testing.assert_array_equal(pa.nearest(rows, centres, 9), expected)
    assert pa.nearest(rows, centres, 99).shape == (7, 50)


def test_the_seed_decides() -> None:
    one, same, other = found(), found(), found(seed=2)
    np.testing.assert_array_equal(one.training, same.training)
    assert (one.places != other.places).any()


def test_scans_of_other_size_are_stretched_to_the_grid() -> None:
    shape = np.array([(12, 16, 20)] * 3 + [(24, 32, 40)] * 2)
    start = np.array([(0, 0, 0)] * 4 + [(5, 0, 1)])
    many = pa.Extents(start=start, shape=shape)
    np.testing.assert_array_equal(many.grid, (12, 16, 20))
    settings = pa.PatternSettings(**{**vars(SMALL), "classes": 3, "instances": 5, "multi_res": False})
    said: list[str] = []
    patterns = pa.discover(names(5), features(5), many, [], settings, say=said.append)
    for row in patterns.training:
        place = patterns.places[row[0], 1:]
        factor = 2 if row[1] >= 3 else 1
        np.testing.assert_array_equal(row[2:5] - start[row[1]], place * factor)
        np.testing.assert_array_equal(row[5:], np.array([4, 6, 8]) * factor)
    assert "scans of 12 x 16 x 20 to 24 x 32 x 40 voxels (D, H, W) meet on a common grid of 12 x 16 x 20" in said
    assert len(patterns.validation) == 0


def test_what_differs_from_the_settings_is_said() -> None:
    said: list[str] = []
    settings = pa.PatternSettings(**{**vars(SMALL), "border": (100, 100, 30), "distance": 0, "instances": 20})
    pa.discover(names(5), features(5), extents(5), ["case_004"], settings, say=said.append)
    assert said[0].startswith("border (3, 2, 2) instead of (100, 100, 30) (W, H, D)")
    assert "4 training scans for 6 classes" in said[1]
    assert said[2].startswith("4 instances a class instead of 20") and said[3].startswith("1 instances a class")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distance": 30}, "only 1 of 6 classes found, the grid has no room for more"),
        ({"cube_size": (24, 8, 8)}, "the common grid 12 x 16 x 20 .* is smaller than a cube of 8 x 8 x 24"),
    ],
)
def test_what_cannot_be_found_is_an_error(changes: dict[str, object], message: str) -> None:
    with pytest.raises(pa.PatternError, match=message):
        found(**changes)


def test_bad_settings_and_features_are_errors() -> None:
    with pytest.raises(
        pa.PatternError, match=r"classes 1 is below 2; --distance -1 .*; --zoom 2 1 .*; --tissue_max 3 "
    ):
        pa.PatternSettings(classes=1, distance=-1, zoom=(2, 1), tissue_max=3)
    with pytest.raises(pa.PatternError, match=r"features \(3, 5\) and 4 scans do not fit 4 names"):
        pa.discover(names(4), features(3), extents(4), [], SMALL)
    with pytest.raises(pa.PatternError, match="NaN"):
        pa.discover(names(4), features(4) * np.nan, extents(4), [], SMALL)


def ct_case(folder: Path, case: str, image_dhw: np.ndarray) -> None:
    """A stored CT: (HU + 100) / 200."""
    put_case(folder, case, ((image_dhw[None] + 100) / 200).astype(np.float32))
    path = folder / f"{case}.json"
    values = json.loads(path.read_text())
    values["intensity"] = [{"shift": -100.0, "scale": 200.0, "low": -4.5, "high": 5.5}]
    path.write_text(json.dumps(values))


def test_the_tissue_filter_looks_at_hu(tmp_path: Path) -> None:
    image = np.full((12, 16, 20), -850.0)
    image[:, :, 10:] = 40.0
    for case in names(4):
        ct_case(tmp_path, case, image)
    settings = pa.PatternSettings(
        **{**vars(SMALL), "classes": 4, "distance": 1, "tissue_filter": True, "border": (0, 0, 0)}
    )
    (tmp_path / "f").mkdir()
    pf.write_features(tmp_path / "f" / "features.npy", names(4), features(4))
    target = pf.index_path(tmp_path, 0)
    patterns = pf.find_patterns(tmp_path, tmp_path / "f" / "features.npy", [], settings, target, say=lambda line: None)
    assert (patterns.places[:, 3] + 8 <= 10 + 1).all()  # at most 15 % of a cube's width of 8 reaches into tissue
    for case in names(4):
        ct_case(tmp_path, case, image * 0 + 40)
    settings = pa.PatternSettings(**{**vars(settings), "seed": 3})
    with pytest.raises(pa.PatternError, match="only 0 of 4 classes found, the tissue filter rejects the others"):
        pf.find_patterns(tmp_path, tmp_path / "f" / "features.npy", [], settings, target, say=lambda line: None)


def test_a_cube_is_the_box_in_unit_range_resized(tmp_path: Path) -> None:
    image = np.random.default_rng(0).uniform(-2, 2, (1, 12, 16, 20)).astype(np.float32)
    put_case(tmp_path, "a", image)
    info, stored = read_info(tmp_path, "a"), open_array(tmp_path, "a", "x")
    row = np.array([0, 0, 3, 4, 5, 4, 6, 8], np.int32)
    np.testing.assert_allclose(pa.cut(stored, info, row, (4, 6, 8)), (image[:, 3:7, 4:10, 5:13] + 2) / 4, atol=1e-6)
    row[6:] = 3, 4
    half = pa.cut(stored, info, row, (4, 6, 8))
    assert half.shape == (1, 4, 6, 8)
    ramp = np.broadcast_to(np.linspace(-2, 2, 20, dtype=np.float32), image.shape)
    np.testing.assert_allclose(
        pa.cut(ramp, info, row, (4, 6, 8))[0, 0, 0, 2:-2], np.arange(5.75, 7.5, 0.5) / 19, atol=1e-6
    )


def test_index_survives_the_disk(tmp_path: Path) -> None:
    path, patterns = tmp_path / "x" / "patterns_fold0.npy", found()
    pf.write_patterns(path, patterns)
    again = pf.read_patterns(path)
    assert (again.cases, again.grid, again.settings) == (patterns.cases, patterns.grid, patterns.settings)
    for name in ("places", "training", "validation"):
        np.testing.assert_array_equal(getattr(again, name), getattr(patterns, name))
    assert path.stat().st_size < 8 * 4 * (180 + 18) + 200
    header = path.with_suffix(".json")
    header.write_text(header.read_text().replace('"version": 1', '"version": 7'))
    with pytest.raises(pa.PatternError, match=r"patterns_fold0.json is not of version 1"):
        pf.read_patterns(path)
    with pytest.raises(pa.PatternError, match=r"preprocess.py --exec_mode patterns makes it"):
        pf.read_patterns(tmp_path / "none.npy")


def test_the_same_index_is_kept_and_another_replaced(tmp_path: Path) -> None:
    for case in names(8):
        put_case(tmp_path, case, np.zeros((1, 12, 16, 20), np.float32))
    (tmp_path / "out").mkdir()
    vectors, target, said = tmp_path / "out" / "features.npy", pf.index_path(tmp_path, 0), []
    pf.write_features(vectors, names(8), features(8))

    def find(**changes: object) -> pa.Patterns:
        settings = pa.PatternSettings(**{**vars(SMALL), **changes})
        return pf.find_patterns(tmp_path, vectors, names(8)[6:], settings, target, say=said.append)

    first, kept = find(), find()
    assert "is kept" in said[-1]
    np.testing.assert_array_equal(first.training, kept.training)
    assert len(find(classes=3).places) == 3 and "is kept" not in said[-1]
    pf.write_features(vectors, names(7), features(8))
    with pytest.raises(pa.PatternError, match=r"features.npy has shape \(8, 5\), which does not fit"):
        find()


def test_published_layout(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for case in names(8):
        put_case(tmp_path, case, rng.uniform(-2, 2, (1, 12, 16, 20)).astype(np.float32))
    settings = pa.PatternSettings(**{**vars(SMALL), "classes": 3, "instances": 4})
    patterns = pa.discover(names(8), features(8), extents(8), names(8)[6:], settings, say=lambda line: None)
    said: list[str] = []
    files = pf.write_published(tmp_path, patterns, tmp_path / "out", 1, say=said.append)
    assert [path.name for path in files[:3]] == [
        "train_data1_vwGen_ex_ref_fold1.npy",
        "train_label1_vwGen_ex_ref_fold1.npy",
        "train_data2_vwGen_ex_ref_fold1.npy",
    ]
    assert files[-2].name == "val_data1_vwGen_ex_ref_fold1.npy" and len(files) == 8
    cubes, labels = pf.open_published(tmp_path / "out", "train", 1)
    assert [part.shape for part in cubes] == [(12, 1, 8, 6, 4)] * 3
    np.testing.assert_array_equal(labels, np.tile(np.repeat([0, 1, 2], 4), 3))
    row = patterns.training[3 * 5 + 1]
    case = patterns.cases[row[1]]
    expected = pa.cut(open_array(tmp_path, case, "x"), read_info(tmp_path, case), row, (4, 6, 8))
    np.testing.assert_array_equal(cubes[1][5], expected.transpose(0, 3, 2, 1))
    pf.write_published(tmp_path, patterns, tmp_path / "out", 1, say=said.append)
    assert said[-1].endswith("is there already and is kept")
    np.save(files[-2], np.zeros((5, 1, 8, 6, 4)))  # as published: the last cube is missing, its label is not
    assert [len(part) for part in (*pf.open_published(tmp_path / "out", "val", 1)[0],)] == [5]
    np.save(files[-1], np.eye(3)[[0, 0, 1, 1, 2, 2]])  # one-hot labels
    np.testing.assert_array_equal(pf.open_published(tmp_path / "out", "val", 1)[1], [0, 0, 1, 1, 2])
    with pytest.raises(pa.PatternError, match=r"val_data1_vwGen_ex_ref_fold0.npy does not exist"):
        pf.open_published(tmp_path / "out", "val", 0)


def test_an_index_of_the_published_size_takes_less_than_ten_seconds(tmp_path: Path) -> None:
    """44 classes, 200 instances, three resolutions, over 300 scans of lung with the tissue filter."""
    rng = np.random.default_rng(0)
    for case in names(300):
        shape = rng.integers((20, 56, 60), (24, 64, 68))
        image = np.full(shape, -850.0, np.float32)
        image[:, : shape[1] // 4] = 40
        ct_case(tmp_path, case, image)
    settings = pa.PatternSettings(cube_size=(16, 16, 8), border=(10, 10, 3), distance=5)
    (tmp_path / "out").mkdir()
    pf.write_features(tmp_path / "out" / "features.npy", names(300), np.tile(features(300), (1, 100)))
    started = time.process_time()
    patterns = pf.find_patterns(
        tmp_path,
        tmp_path / "out" / "features.npy",
        names(300)[240:],
        settings,
        pf.index_path(tmp_path, 0),
        say=lambda line: None,
    )
    assert time.process_time() - started < 10
    assert patterns.training.shape == (44 * 200 * 3, 8) and patterns.validation.shape == (44 * 30, 8)
    assert len(list((tmp_path / "patterns").iterdir())) == 2


def test_settings_keep_the_names_that_index_files_have() -> None:
    stored = SMALL.to_json()
    assert stored["size"] == SMALL.cube_size and stored["validation_instances"] == SMALL.val_instances
    assert pa.PatternSettings.from_json(json.loads(json.dumps(stored))) == SMALL
