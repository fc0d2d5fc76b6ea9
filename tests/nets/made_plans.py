from cases.plan import Normalization, Plan
from nets.choice import NetworkChoice


def choice(**settings):
    """A network's settings and its encoder's, by name."""
    return NetworkChoice.from_json(settings)


def make_plan(patch=(16, 24, 32), *, channels=1, labels=3, spacing=(1.0, 1.0, 1.0)):
    return Plan(
        name="99_3d",
        dataset="Task99_Test",
        dim=len(patch),
        channels=tuple(f"c{i}" for i in range(channels)),
        labels=tuple(f"l{i}" for i in range(labels)),
        spacing_mm=spacing,
        patch_size=patch,
        normalization=(Normalization(scheme="zscore"),) * channels,
    )
