"""Settings (`--conf <key> <value>`) as what they mean. One that cannot be used ends the start, and is named.

Not here: users and origins, which those read that use them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl

import torch

from monai_mammo.bundles import BUNDLES

MEBI = 2**20


def number(conf: Mapping[str, str], key: str, usual: float, least: float = 0, most: float = math.inf) -> float:
    """A setting that is a finite number.

    Raises:
        ValueError: it is none, or not between `least` and `most`.
    """
    try:
        value = float(conf.get(key, usual))
    except ValueError:
        value = math.nan
    if not (least <= value <= most and math.isfinite(value)):
        raise _unusable(conf, key, f"no number from {least:g} {f'to {most:g}' if math.isfinite(most) else 'up'}")
    return value


def whole_number(conf: Mapping[str, str], key: str, usual: int, least: int = 0) -> int:
    """A setting that is a whole number.

    Raises:
        ValueError: it is none, or less than `least`.
    """
    value = number(conf, key, usual, least)
    if not value.is_integer():
        raise _unusable(conf, key, "no whole number")
    return int(value)


def mebibytes(conf: Mapping[str, str], key: str, least: int = 0) -> int:
    """A setting in MiB (512 unless it says otherwise), in bytes.

    Raises:
        ValueError: it is no whole number, or less than `least`.
    """
    return whole_number(conf, key, 512, least) * MEBI


def is_on(conf: Mapping[str, str], key: str) -> bool:
    """A setting that is `on`, unless it is `off`.

    Raises:
        ValueError: it is neither.
    """
    value = conf.get(key, "on")
    if value not in ("on", "off"):
        raise _unusable(conf, key, "neither on nor off")
    return value == "on"


def folder(conf: Mapping[str, str], key: str) -> Path | None:
    """A setting that is a folder to write to, made if it is missing; None where it is not set.

    Raises:
        ValueError: there can be no folder.
    """
    if not conf.get(key):
        return None
    path = Path(conf[key]).resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(conf, key, f"no place for a folder ({error.strerror})") from None
    return path


def bundles_folder(conf: Mapping[str, str], usual: Path) -> Path:
    """The folder of both bundles.

    Raises:
        ValueError: one of them is not in it.
    """
    path = Path(conf.get("bundles") or usual).resolve()
    for name in BUNDLES.values():
        if not (path / name / "configs" / "inference.yaml").is_file():
            raise ValueError(f"conf bundles: there is no bundle {name} in {path}")
    return path


def archive_query(conf: Mapping[str, str]) -> dict[str, str] | None:
    """The attributes that an archive's images must match; None where it is not set.

    Raises:
        ValueError: it is no query.
    """
    if not conf.get("query"):
        return None
    try:
        return dict(parse_qsl(conf["query"], strict_parsing=True))
    except ValueError:
        raise _unusable(conf, "query", "no query such as Modality=MG&StudyDate=20240101-20241231") from None


def device(conf: Mapping[str, str]) -> str | None:
    """The device for the networks; None if the bundles choose.

    Raises:
        ValueError: torch cannot use it on this machine.
    """
    name = conf.get("device") or None
    try:
        float(torch.zeros(1, device=name))
    except (RuntimeError, AssertionError, ImportError):
        raise _unusable(conf, "device", "no device that torch can use here (cpu always is one)") from None
    return name


def _unusable(conf: Mapping[str, str], key: str, what: str) -> ValueError:
    return ValueError(f"conf {key}: {conf[key]!r} is {what}")
