"""The few lines beside an exported model that run it on a picture: written for a reader, and run by tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from passl_simsiam.export.formats import FORMATS, MODEL
from passl_simsiam.export.network import INPUT, Network

_RUN = {
    "paddle": (
        "from paddle import inference",
        f"""\
config = inference.Config(str(here / "{MODEL}.json"), str(here / "{MODEL}.pdiparams"))
config.disable_glog_info()
predictor = inference.create_predictor(config)
predictor.get_input_handle("{INPUT}").copy_from_cpu(np.ascontiguousarray(x))
predictor.run()
y = predictor.get_output_handle("{{output}}").copy_to_cpu()[0]""",
    ),
    "onnx": (
        "import onnxruntime",
        f"""\
session = onnxruntime.InferenceSession(here / "{MODEL}.onnx", providers=["CPUExecutionProvider"])
y = session.run(["{{output}}"], {{{{"{INPUT}": x}}}})[0][0]""",
    ),
}


def snippet(network: Network, raw: bool, name: str) -> str:
    """A program that prints the outputs for one picture as JSON, and first its class where the classes are known.

    Args:
        raw: whether the model takes uint8 pixels. name: of the format.
    """
    imports, run = _RUN[name]
    read, shape = _read(network.channels), "uint8 [1, height, width, channels]"
    if raw:
        prepare = f"x = picture[None]  # {shape}"
    else:
        prepare = (
            f"x = (picture[None] / 255 - {list(network.mean)}) / {list(network.std)}\n"
            'x = x.transpose(0, 3, 1, 2).astype("float32")  # float32 [1, channels, height, width]'
        )
    classes = (
        'print(json.loads((here / "export.json").read_text())["classes"][y.argmax()])\n' if network.classes else ""
    )
    return (
        f'"""The {network.output} of a picture: python use_{name}.py PICTURE"""\n\n'
        f"import json\nimport sys\nfrom pathlib import Path\n\nimport numpy as np\n{imports}\n"
        f"{'from PIL import Image, ImageOps' if network.channels in (1, 3) else ''}\n\n"
        "here = Path(__file__).parent\n"
        f"{read}\n{_view(network.view, network.size) if network.channels in (1, 3) else ''}"
        f"{prepare}\n{run.format(output=FORMATS[name].output or network.output)}\n"
        f"{classes}print(json.dumps(y.tolist()))\n"
    ).replace("\n\n\n", "\n\n")


def _read(channels: int) -> str:
    if channels not in (1, 3):
        return f"picture = np.load(sys.argv[1])  # uint8 [height, width, {channels}], at its final size"
    mode = "RGB" if channels == 3 else "L"
    return f'picture = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("{mode}")'


def _view(view: Mapping[str, Any], size: int) -> str:
    """From a Pillow image to the array `picture`, as the evaluation transform `view` does it."""
    if view["name"] == "Resize":
        lines = f"picture = picture.resize(({size}, {size}), Image.Resampling.BILINEAR)\n"
    elif view["name"] == "ResizeCenterCrop":
        lines = (
            f"sides = [side * {view['resize']} // min(picture.size) for side in picture.size]\n"
            "picture = picture.resize(sides, Image.Resampling.BILINEAR)\n"
            f"left, top = [round((side - {size}) / 2) for side in sides]\n"
            f"picture = picture.crop((left, top, left + {size}, top + {size}))\n"
        )
    else:
        lines = f'assert picture.size == ({size}, {size}), "prepare the picture as {view["name"]} does"\n'
    return f"{lines}picture = np.asarray(picture).reshape({size}, {size}, -1)\n"
