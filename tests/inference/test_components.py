"""Small components of label maps, and how large they must be."""

import numpy as np
import pytest

from cases.regions import parse_regions
from inference.components import (
    ComponentError,
    ComponentSettings,
    Least,
    fit_least,
    nested_regions,
    read_least,
    remove_small,
    write_least,
)

REGIONS = parse_regions(("whole=1,2,4", "core=1,4", "enhancing=4"), (0, 1, 2, 4))
LABELS = ("background", "necrosis", "edema", "enhancing")


def tumour():
    """Oedema (2) with a core (1), six voxels of enhancing tumour (3) in it, and two apart."""
    label = np.zeros((6, 8, 10), np.uint8)
    label[1:5, 1:7, 1:9] = 2
    label[2:4, 2:5, 2:6] = 1
    label[2, 2:4, 2:5] = 3
    label[4, 6, 7:9] = 3
    return label


def test_a_small_component_becomes_the_region_around_it():
    label = tumour()
    cleaned = remove_small(label, REGIONS, Least(component={"enhancing": 5}))
    assert (cleaned[4, 6, 7:9] == 1).all() and (cleaned[2, 2:4, 2:5] == 3).all()
    assert np.array_equal(label, tumour())
    rest = remove_small(label, REGIONS, Least(component={"enhancing": 5, "core": 5}))
    assert (rest[4, 6, 7:9] == 2).all()  # what became core is a small component of it
    assert (remove_small(label, REGIONS, Least(volume={"enhancing": 9})) != 3).all()
    assert np.array_equal(remove_small(label, REGIONS, Least(volume={"enhancing": 8})), label)
    assert not remove_small(label, REGIONS, Least(volume={"whole": 1000})).any()
    classes = remove_small(label, nested_regions(LABELS, None), Least(component={"enhancing": 5}))
    assert (classes[4, 6, 7:9] == 0).all()


def test_settings_take_a_part_of_a_name(tmp_path):
    post = ComponentSettings(min_component=("enh=5",), min_volume=("core=4",)).of(LABELS, REGIONS)
    assert (post(tumour())[4, 6, 7:9] == 1).all()
    assert ComponentSettings().of(LABELS, REGIONS) is None
    for text, message in (("enh", "not such as"), ("enh=x", "not such as"), ("liver=3", "whole, core, enhancing")):
        with pytest.raises(ComponentError, match=message):
            ComponentSettings(min_component=(text,)).of(LABELS, REGIONS)
    path = tmp_path / "post.json"
    write_least(path, Least(component={"enhancing": 5}))
    assert (ComponentSettings(postprocessing=path).of(LABELS, REGIONS)(tumour())[4, 6, 7:9] == 1).all()
    with pytest.raises(ComponentError, match="not with --min_component"):
        ComponentSettings(postprocessing=path, min_component=("enh=5",))
    path.write_text("[]")
    with pytest.raises(ComponentError, match=r"post.json does not hold sizes"):
        read_least(path)


def test_a_size_is_fitted_only_where_validation_improves():
    truth = tumour()
    truth[4, 6, 7:9] = 2  # the two voxels are a false alarm
    found = fit_least(lambda: [(tumour(), truth)], REGIONS, (2, 4, 8))
    assert found.component == {"enhancing": 4, "core": 4} and found.volume == {}
    assert not fit_least(lambda: [(truth, truth)], REGIONS, (2, 4, 8))
    none = np.where(truth == 3, 1, truth)  # a case without enhancing tumour counts as 1 where none is left
    assert fit_least(lambda: [(truth, none)], REGIONS, (2, 32)).component == {"enhancing": 32}
