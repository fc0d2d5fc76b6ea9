"""The effects together: their order, what is packed, what is drawn, and an effect from outside the tree."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cases.registry import RegistryError
from cases.settings import Given
from data_loading import module as data_module
from data_loading.augmentation.noise import NoiseSettings
from data_loading.augmentation.pipeline import DEFAULTS, EFFECTS, Augmentation, AugmentationSettings
from data_loading.augmentation.spatial import Mirror
from data_loading.errors import LoaderError
from data_loading.module import LoaderSettings, patch_loader, patch_source
from data_loading.sources.sampling import generator
from tests.data_loading.augmentation.ways import WAYS, effect, run_graph

pytestmark = pytest.mark.loader


STRIPES = '''
from dataclasses import dataclass

import numpy as np

from cases.settings import Settings, probability, setting
from data_loading.augmentation.effect import IntensityEffect


@dataclass(frozen=True, kw_only=True)
class StripesSettings(Settings):
    """Augmentation: stripes."""

    stripes: float = setting(1.0, "probability of stripes", check=probability)
    stripes_height: float = setting(100.0, "what is added to every second column")


class Stripes(IntensityEffect[StripesSettings]):
    settings = StripesSettings

    def draw(self, rng, channels, axes):
        if rng.random() >= self.given.stripes:
            return None
        return rng.uniform(1, 2, channels) * self.given.stripes_height

    def apply_cpu(self, image_cdhw, parameters, in_plane):
        image_cdhw[..., ::2] += parameters[:, None, None, None]

    def apply_dali(self, image, parameters, shape, in_plane):
        from nvidia.dali import types

        from data_loading.augmentation.graph import column

        mask = (np.arange(shape[-1]) % 2 == 0).astype(np.float32).reshape(*[1] * (len(shape) - 1), -1)
        return image + column(parameters, image, shape) * types.Constant(mask, device=image.device)
'''


def test_nnunets_effects_in_nnunets_order() -> None:
    assert list(EFFECTS) == [
        *("rotation", "scaling", "noise", "blur", "brightness", "contrast"),
        *("low_resolution", "gamma_inverted", "gamma", "mirror"),
    ]
    assert [type(effect) for effect in Augmentation.nnunet().effects] == [EFFECTS.get(name) for name in EFFECTS]


def test_every_effect_has_a_probability_of_its_own_name() -> None:
    for name in EFFECTS:
        (kind,) = EFFECTS.settings_of(name)
        assert getattr(kind(**{name: 0.25}), name) == 0.25
        with pytest.raises(LoaderError, match=f"--{name} 1.5 is not a probability"):
            kind(**{name: 1.5})


def test_no_augmentation_leaves_mirroring_to_the_coin() -> None:
    (effect,) = Augmentation.of(DEFAULTS.with_(AugmentationSettings(augment="none"))).effects
    assert isinstance(effect, Mirror)
    assert effect.given.mirror == 0.5


@pytest.mark.parametrize("way", WAYS)
def test_nothing_drawn_changes_nothing(way: str, image: np.ndarray) -> None:
    assert np.array_equal(effect(way, image, "", ()), image)


def test_a_drawn_set_survives_packing() -> None:
    names = ("noise", "blur", "brightness", "contrast", "low_resolution", "gamma_inverted", "gamma")
    augmentation = Augmentation.only(*names)
    packed = augmentation.draw_intensity(generator(1), 3, 3)
    assert packed.dtype == np.float32
    assert len(packed) == augmentation.width(3, 3) == 7 + 5 + 9 + 5 * 3
    rng, starts = generator(1), 0
    for name, (made, first, end) in zip(names, augmentation.places(3, 3), strict=True):
        assert type(made) is EFFECTS.get(name)
        assert first == starts + 1
        assert packed[first - 1] == 1
        assert packed[first:end].tolist() == made.draw(rng, 3, 3).astype(np.float32).tolist()
        starts = end


def test_effects_that_lose_their_coin_are_off() -> None:
    never = [replace(group, noise=0.0) if isinstance(group, NoiseSettings) else group for group in DEFAULTS]
    augmentation = Augmentation.of(Given(tuple(never)))
    packed = [augmentation.draw_intensity(generator(i), 2, 3) for i in range(20)]
    assert not np.stack(packed)[:, :6].any()
    assert np.stack(packed).any()


@pytest.mark.parametrize("way", WAYS)
def test_noise_comes_before_blur(way: str) -> None:
    """The order of the table is the order: noise that is blurred is weaker than noise on its own."""
    image = np.zeros((1, 12, 16, 20), np.float32)
    augmentation = Augmentation.only("noise", "blur")
    packed = augmentation.draw_intensity(generator(3), 1, 3)
    std = packed[1]
    changed = image.copy()
    augmentation.apply_cpu(changed, packed, 3, False)
    if way != "compiled":
        graph = run_graph(lambda i, p: (augmentation.apply_dali(i, p, image.shape, False),), image, packed, device=way)
        assert np.abs(graph - changed).max() < 1e-3
        changed = graph
    assert 0 < changed.std() < 0.7 * std


@pytest.fixture
def own(tmp_path: Path) -> tuple[str, Augmentation]:
    path = tmp_path / f"stripes_{tmp_path.name}.py"
    path.write_text(STRIPES, encoding="utf-8")
    name = f"{path}:Stripes"
    (kind,) = EFFECTS.settings_of(name)
    chosen = AugmentationSettings(own_effects=(name,))
    given = Given((chosen, *(group for group in DEFAULTS if not isinstance(group, AugmentationSettings)), kind()))
    return name, Augmentation.of(given)


def test_an_own_effect_runs_last_and_changes_no_other_draw(own: tuple[str, Augmentation]) -> None:
    _, augmentation = own
    assert [type(effect).__name__ for effect in augmentation.effects][-1] == "Stripes"
    ours, theirs = Augmentation.nnunet().draw_intensity(generator(5), 2, 3), None
    theirs = augmentation.draw_intensity(generator(5), 2, 3)
    assert theirs[: len(ours)].tolist() == ours.tolist()
    assert theirs[len(ours)] == 1
    image = np.zeros((2, 4, 6, 8), np.float32)
    off = np.concatenate([np.zeros_like(ours), theirs[len(ours) :]])
    augmentation.apply_cpu(image, off, 3, False)
    assert (image[..., ::2] >= 100).all()
    assert not image[..., 1::2].any()
    graph = run_graph(lambda i, p: (augmentation.apply_dali(i, p, image.shape, False),), np.zeros_like(image), off)
    assert np.abs(graph - image).max() < 1e-4


def test_an_own_effect_runs_in_the_reading_processes(
    make_folder: Callable[..., tuple], own: tuple[str, Augmentation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_module, "usable_workers", lambda wanted: wanted)
    _, augmentation = own
    made = make_folder(2, image=lambda _: np.zeros((1, 12, 16, 20)))
    with patch_loader(*made, LoaderSettings(num_workers=1, steps_per_epoch=2), augmentation) as loader:
        for batch in loader:
            assert float(batch["image"][..., ::2].min()) > 90  # under noise and other effects of the rest


def test_an_augmentation_pickles_small() -> None:
    augmentation = Augmentation.nnunet()
    augmentation.draw_intensity(generator(0), 1, 3)
    packed = pickle.dumps(augmentation)
    assert len(packed) < 3000
    assert pickle.loads(packed) == augmentation


def test_own_effects_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(LoaderError, match="--own_effects blur is built in already"):
        AugmentationSettings(own_effects=("blur",))
    (tmp_path / "no_effect.py").write_text("class Nothing:\n    pass\n", encoding="utf-8")
    with pytest.raises(RegistryError, match="is no augmentation effect: it has no settings, width, draw"):
        EFFECTS.get(f"{tmp_path / 'no_effect.py'}:Nothing")


def test_a_draw_of_another_width_is_named(own: tuple[str, Augmentation], monkeypatch: pytest.MonkeyPatch) -> None:
    _, augmentation = own
    monkeypatch.setattr(type(augmentation.effects[-1]), "width", lambda *_: 7)
    with pytest.raises(LoaderError, match=r"Stripes draws \(2,\) numbers, its width is 7"):
        augmentation.draw_intensity(generator(0), 2, 3)


def test_graph_and_kernels_draw_alike(make_folder: Callable[..., tuple]) -> None:
    made, loading = make_folder(2), LoaderSettings()
    info: Any = SimpleNamespace(iteration=3, idx_in_batch=1)
    sources = [patch_source(*made, loading, Augmentation.nnunet(), compiled=compiled) for compiled in (True, False)]
    patches = [source.draw(info.iteration, info.idx_in_batch)[1] for source in sources]
    assert patches[0].intensity.tolist() == patches[1].intensity.tolist()
    *_, parameters, matrix = sources[1](info)
    assert parameters[1:].tolist() == patches[1].intensity.tolist()
    assert matrix.shape == (3, 4)
