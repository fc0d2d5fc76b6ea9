import pytest
import torch

from cases.regions import brats_regions


def test_brats_regions_follow_the_names():
    task01 = brats_regions(("background", "edema", "non-enhancing tumor", "enhancing tumour"))
    assert task01.members == ((1, 2, 3), (2, 3), (3,))
    brats21 = brats_regions(("background", "necrotic core", "edema", "enhancing"))
    assert brats21.members == ((1, 2, 3), (1, 3), (3,))
    label = torch.arange(4, dtype=torch.uint8).reshape(1, 1, 4)
    for regions in (task01, brats21):
        assert torch.equal(regions.label(regions.channels(label)[0]), label[0, 0])
    with pytest.raises(ValueError, match="edema"):
        brats_regions(("background", "liver"))
