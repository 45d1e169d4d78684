"""The folder that an export makes: complete and proven, or not there.

OUT/model.json, model.pdiparams    for Paddle Inference
    model.onnx                     for ONNX Runtime and others
    export.json                    what goes in, what comes out, where it is from, how it was checked
    use_paddle.py, use_onnx.py     each runs its model on a picture
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from passl_simsiam import __version__
from passl_simsiam.checkpoint.durable import digest, sync_folder
from passl_simsiam.errors import UserError
from passl_simsiam.export.formats import FORMATS, OPSET
from passl_simsiam.export.network import INPUT, Network
from passl_simsiam.export.proof import BATCHES, TOLERANCE, noise, prove, sample
from passl_simsiam.export.quiet import quiet
from passl_simsiam.export.snippets import snippet

Array = np.ndarray[Any, Any]

SUMMARY = "export.json"


def export(
    network: Network,
    out: Path,
    *,
    formats: Sequence[str] = ("paddle",),
    raw: bool = False,
    real: Mapping[str, Array] | None = None,
) -> dict[str, Any]:
    """Write `network` into the new folder `out`; what export.json says.

    Args:
        formats: names of FORMATS.
        raw: take raw pixels, uint8 [batch, size, size, channels], and normalise inside; otherwise the input is
            float32 [batch, channels, size, size], normalised.
        real: images to check the written models on besides random ones: where they come from, and uint8
            [n, size, size, channels].

    Raises:
        UserError: `out` holds something; a package is missing; a format cannot hold the network; a written model does
            not give what the network gives. Nothing is left behind then.
    """
    for name in formats:
        FORMATS[name].require()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} is there already; give a new folder for the export, or remove this one")
    aside = out.with_name(f".tmp-{out.name}-{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        summary = _fill(aside, network, formats, raw, {"random pixels": noise(network), **(real or {})})
        sync_folder(aside)
        aside.rename(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return summary


def _fill(
    folder: Path, network: Network, formats: Sequence[str], raw: bool, images: Mapping[str, Array]
) -> dict[str, Any]:
    # Before anything is written: a static program must not have touched the layer yet.
    samples = {name: sample(network, pixels) for name, pixels in images.items()}
    for name in formats:
        FORMATS[name].write(network, raw, folder)
    proofs: dict[str, Any] = {}
    for name in formats:
        with quiet():  # oneDNN talks at the first run
            run = FORMATS[name].open(folder)
            proofs[name] = {
                where: prove(network, raw, run, given, f"the {name} model, on {where},").as_json()
                for where, given in samples.items()
            }
    for name in formats:
        (folder / f"use_{name}.py").write_text(snippet(network, raw, name), encoding="utf-8")
    summary = {
        **_description(network, formats, raw, samples["random pixels"].expected[0].shape[1]),
        "checked": {"batch_sizes": list(BATCHES), "tolerance": TOLERANCE, **proofs},
        "files": {
            path.name: {"size": path.stat().st_size, "sha256": digest(path)} for path in sorted(folder.iterdir())
        },
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return summary


def _description(network: Network, formats: Sequence[str], raw: bool, width: int) -> dict[str, Any]:
    side, channels = network.size, network.channels
    formula = "(x / 255 - mean) / std, channel by channel"
    return {
        "format": 1,
        "made": {
            "when": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "by": f"passl_simsiam {__version__}, PaddlePaddle {paddle.__version__}",
        },
        "source": dict(network.source),
        "input": {
            "name": INPUT,
            "dtype": "uint8" if raw else "float32",
            "shape": ["batch", side, side, channels] if raw else ["batch", channels, side, side],
            "channels": {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels"),
        },
        "output": {
            "meaning": network.output,
            "names": {name: FORMATS[name].output or network.output for name in formats},
            "dtype": "float32",
            "shape": ["batch", width],
        },
        "view": {**network.view, "resampling": "bilinear, antialiased (as Pillow's)"},
        "normalisation": {
            "inside": raw,
            "formula": formula,
            "mean": list(network.mean),
            "std": list(network.std),
        },
        "classes": list(network.classes) if network.classes else None,
        **({"opset": OPSET} if "onnx" in formats else {}),
    }
