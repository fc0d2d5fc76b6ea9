"""``--preset``: published settings, by the flags' names."""

from __future__ import annotations

from typing import Any

# Models Genesis and its code (arXiv:1908.06912): one cube of 64x64x32 (W, H, D) a patch.
_GENESIS_SGD = {
    "exec_mode": "pretrain",
    "patch_size": (32, 64, 64),
    "optimizer": "sgd",
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.0,
    "scheduler": "step",
}
# Semantic Genesis (doi:10.1007/978-3-030-59710-8_14): the autoencoder of whole scans, then the pre-training itself.
_SEMANTIC = {
    "exec_mode": "pretrain",
    "encoder": "genesis",
    "optimizer": "adam",
    "learning_rate": 0.001,
    "weight_decay": 0.0,
    "patience": 50,
    "epochs": 10000,
}
_MEDICALNET = {  # arXiv:1904.00625: fine-tuning, and no augmentation besides its preprocessing's crops
    "exec_mode": "train",
    "optimizer": "sgd",
    "learning_rate": 0.001,
    "new_layer_lr_mult": 100.0,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.001,
    "scheduler": "exponential",
    "lr_decay": 0.99,
    "batch_size": 1,
    "epochs": 200,
    "augment": "none",
    "mirror_axes": (),
}
PRESETS: dict[str, dict[str, Any]] = {
    "models_genesis": _GENESIS_SGD
    | {"encoder": "genesis", "batch_size": 6, "learning_rate": 1.0, "patience": 50, "step_epochs": 40, "epochs": 10000},
    "genesis_nnunet": _GENESIS_SGD
    | {"batch_size": 64, "learning_rate": 0.1, "patience": 20, "step_epochs": 12, "epochs": 1000}
    | {"z_score": (-775.8457, 251.9326), "outputs": 2},
    "semantic_autoencoder": _SEMANTIC | {"method": "autoencoder", "scheduler": "plateau", "batch_size": 8},
    "semantic_genesis": _SEMANTIC | {"method": "semantic", "scheduler": "step", "batch_size": 64, "step_epochs": 40},
    "medicalnet": _MEDICALNET,
    "medicalnet_conv_seg": _MEDICALNET | {"conv_seg": True, "loss": "ce"},
}
