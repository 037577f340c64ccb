"""The bundles on disk: where each task's is, what its configs say, the command that runs it. Nothing is run here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_mammo.datasets.datalist import Task
from monai_mammo.dicom.errors import MammogramError

BUNDLES: dict[Task, str] = {
    "segmentation": "mammo_tumor_segmentation",
    "quality": "mammo_quality_classification",
}
"""The bundle of each task, a folder's name."""


def find_bundle(task: Task, bundles: Path | None = None) -> Path:
    """The task's bundle: in the folder given, in `bundles` of the current folder or beside the package.

    Raises:
        MammogramError: it is in none of them.
    """
    here = [Path("bundles"), Path(__file__).resolve().parents[1] / "bundles"]
    for folder in [bundles] if bundles is not None else here:
        if (folder / BUNDLES[task] / "configs" / "train.yaml").is_file():
            return (folder / BUNDLES[task]).resolve()
    where = bundles if bundles is not None else "bundles"
    raise MammogramError(where, f"it does not hold the bundle {BUNDLES[task]}", "Name its folder with --bundles")


def config_of(bundle: Path, *names: str) -> dict[str, Any]:
    """Some of a bundle's configs together, as they are written, by id.

    Args:
        bundle: its folder.
        names: of files in its `configs`.

    Raises:
        MammogramError: one of them is not there.
    """
    files = [bundle / "configs" / name for name in names]
    for file in files:
        if not file.is_file():
            raise MammogramError(bundle, f"it is no bundle: it has no configs/{file.name}", "Give a bundle's folder")
    return ConfigParser.load_config_files([str(file) for file in files])


def inference_of(bundle: Path, overrides: Mapping[str, Any]) -> ConfigParser:
    """A bundle's `inference.yaml` with values of it replaced; errors as of `config_of` and `refuse_unknown`."""
    config = config_of(bundle, "inference.yaml")
    refuse_unknown(overrides, config, "inference.yaml")
    parser = ConfigParser(config)
    parser.update({**overrides, "bundle_root": str(bundle)})
    return parser


def labels_of(bundle: Path) -> dict[int, str]:
    """Meaning of the output's indices; errors as of `config_of`."""
    return labels_in(config_of(bundle, "metadata.json"))


def labels_in(metadata: Mapping[str, Any]) -> dict[int, str]:
    """Meaning of the output's indices, from a bundle's metadata."""
    pred = metadata["network_data_format"]["outputs"]["pred"]
    return {int(index): name for index, name in pred["channel_def"].items()}


def running(bundle: Path, entry: str, configs: Iterable[str | Path], values: Mapping[str, Any]) -> list[str]:
    """What `python` or `torchrun` is given to run a bundle; its configs by name, others by their full path."""
    files = [str(bundle / "configs" / name) for name in configs]
    given = {"config_file": repr(files), "bundle_root": bundle, **values}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return ["-m", "monai.bundle", "run", entry, *words]


def has_value(config: Mapping[str, Any], name: str) -> bool:
    """Whether a config has the value of an id (`width`, `train#trainer`, `train::trainer`).

    A component (`_target_`) takes what its class takes, which the config need not name.
    """
    here: Any = config
    for part in name.replace("::", "#").split("#"):
        if not isinstance(here, Mapping) or "_target_" in here:
            break
        if part not in here:
            return False
        here = here[part]
    return True


def chosen(choices: Mapping[str, Any], name: str, value: Any) -> Any:
    """What a config has for a value: of the `regions` the one of the `mode`.

    Raises:
        MammogramError: it has nothing for it.
    """
    if value not in choices:
        raise MammogramError(name, f"there is no {value!r}", f"Give one of {', '.join(choices)}")
    return choices[value]


def other_weights(weights: str | Path, network: str) -> MammogramError:
    """The error that says that weights are of another network than the one that a config describes."""
    return MammogramError(
        weights,
        f"these weights are not of this network ({network})",
        "Give the values that it was trained with (width, stem, head, ...)",
    )


def no_numbers(path: str | Path) -> MammogramError:
    """The error that says that a network's result holds NaN or infinity.

    Args:
        path: the weights; or the image, where the weights' file is not known.
    """
    return MammogramError(
        path,
        "the network gives no numbers (NaN or infinity), as after a training that has diverged",
        "Take other weights; in a training, a lower learning rate",
    )


def refuse_unknown(values: Iterable[str], config: Mapping[str, Any], file: str = "train.yaml") -> None:
    """Let no value be given that does not exist: MONAI would take it and change nothing.

    Args:
        values: ids of what is given.
        config: what the bundle has.
        file: where the reader finds what there is.

    Raises:
        MammogramError: the config has no such value.
    """
    for name in values:
        if not has_value(config, name):
            raise MammogramError(name, "the bundle's configuration has no such value", f"See its configs/{file}")
