"""The rules of conversion, as tables: what each project calls the same tensors. Both directions read them.

A model is a list of modules in our names (`backbone.layer1.0.conv1`, `neck.3`). A layout gives each of them the
project's name; KINDS gives the tensors of each kind of module in torch and in Paddle. Names were read in the projects'
sources (see `source`); none of them is guessed from a file, and prefixes in front of a layout (`module.`) are found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from passl_simsiam.errors import UserError, suggest

Framework = Literal["torch", "paddle"]

# Tensors of a module: ours (as in Paddle) and torch's name. All are copied bit for bit, a linear layer's weight
# transposed: [in, out] in Paddle, [out, in] in torch. The running variance averages biased variances in Paddle and
# unbiased ones in torch. Evaluation uses it the same way; further training would add to it what is smaller or larger by
# n / (n - 1), n being a batch's values of one channel.
KINDS: dict[str, tuple[tuple[str, str], ...]] = {
    "conv": (("weight", "weight"),),
    "bn": (("weight", "weight"), ("bias", "bias"), ("_mean", "running_mean"), ("_variance", "running_var")),
    "linear": (("weight", "weight"), ("bias", "bias")),
}
# torch counts a batch norm's batches; Paddle does not. safetensors files keep the counts beside the weights.
COUNTER = "num_batches_tracked"

# Blocks of each stage; whether they are bottlenecks.
DEPTHS: dict[int, tuple[tuple[int, int, int, int], bool]] = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}

# What a ResNet's modules are called. s, b, n: stage from 1, block in its stage from 0, convolution in its block from 1;
# s1, s2, s3: s + 1, s + 2, s + 3; n0: the convolution from 0; k: the block counted through all stages; letter:
# PaddleDetection's of a block (a, b, c, ...; in long stages a, b1, b2, ...); abc: the convolution's.
#               stem, its batch norm     convolution, its batch norm     projection of the shortcut, its batch norm
BACKBONES: dict[str, tuple[str, str, str, str, str, str]] = {
    "torchvision": ("conv1", "bn1", "layer{s}.{b}.conv{n}", "layer{s}.{b}.bn{n}",
                    "layer{s}.{b}.downsample.0", "layer{s}.{b}.downsample.1"),
    "shortcut": ("conv1", "bn1", "layer{s}.{b}.conv{n}", "layer{s}.{b}.bn{n}",
                 "layer{s}.{b}.shortcut.0", "layer{s}.{b}.shortcut.1"),
    # nn.Sequential of torchvision's children: conv1, bn1, relu, maxpool, layer1, ...; without the pool from leftthomas.
    "children": ("0", "1", "{s3}.{b}.conv{n}", "{s3}.{b}.bn{n}", "{s3}.{b}.downsample.0", "{s3}.{b}.downsample.1"),
    "children, no pool": ("0", "1", "{s2}.{b}.conv{n}", "{s2}.{b}.bn{n}",
                          "{s2}.{b}.downsample.0", "{s2}.{b}.downsample.1"),
    # The same of lightly's own ResNet, which has no modules for relu and pool.
    "children, shortcut": ("0", "1", "{s1}.{b}.conv{n}", "{s1}.{b}.bn{n}",
                           "{s1}.{b}.shortcut.0", "{s1}.{b}.shortcut.1"),
    "paddleclas": ("stem.0.conv", "stem.0.bn", "blocks.{k}.conv{n0}.conv", "blocks.{k}.conv{n0}.bn",
                   "blocks.{k}.short.conv", "blocks.{k}.short.bn"),
    "paddledetection": ("conv1.conv1.conv", "conv1.conv1.norm",
                        "res{s1}.res{s1}{letter}.branch2{abc}.conv", "res{s1}.res{s1}{letter}.branch2{abc}.norm",
                        "res{s1}.res{s1}{letter}.short.conv", "res{s1}.res{s1}{letter}.short.norm"),
}  # fmt: skip

# What an MLP's modules are called. i: layer from 0; i1: from 1; l, m: 3 i and 3 i + 1, places in a Sequential.
#           linear      its batch norm  a linear layer without one
MLPS: dict[str, tuple[str, str, str]] = {
    "sequence": ("{l}", "{m}", "{l}"),
    "fc and bn": ("fc{i}", "bn{i}", "fc{i}"),
    "layers": ("layer{i1}.0", "layer{i1}.1", "layer{i1}"),
    "groups": ("{i}.0", "{i}.1", "{i}"),
}


@dataclass(frozen=True)
class MLP:
    """A projector or predictor in a layout.

    Attributes:
        prefix: of its modules, for instance "encoder.fc.".
        names: a key of MLPS.
        bias: which linear layers have one: all, only the last, or none.
        affine: whether the batch norm behind the last linear layer has weight and bias.
    """

    prefix: str
    names: str
    bias: Literal["all", "last", "none"] = "last"
    affine: bool = False


@dataclass(frozen=True)
class Layout:
    """How one project names a model's parts; a part it cannot hold is None.

    Attributes:
        backbone: prefix of the backbone. blocks: keys of BACKBONES in use there; the first is written.
        classifier: the linear classifier's module.
        aliases: prefixes under which the same modules appear a second time in the file.
        wrapper: what stands before every name in a file that is written (in one that is read, it is found).
        wraps: the key under which the weights lie in a file that is written.
    """

    name: str
    framework: Framework
    backbone: str
    blocks: tuple[str, ...]
    neck: MLP | None = None
    head: MLP | None = None
    classifier: str | None = None
    aliases: dict[str, str] = field(default_factory=dict)
    wrapper: str = ""
    wraps: str | None = None
    source: str = ""


_TORCHVISION = ("torchvision",)
_CHILDREN = ("children", "children, no pool", "children, shortcut", "torchvision")
_PROJECTOR, _PREDICTOR = MLP("encoder.fc.", "sequence"), MLP("predictor.", "sequence")

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("ours", "paddle", "backbone.", _TORCHVISION, MLP("neck.", "sequence"), MLP("head.", "sequence"), "head"),
        Layout("official", "torch", "encoder.", _TORCHVISION, _PROJECTOR, _PREDICTOR, wrapper="module.",
               wraps="state_dict", source="facebookresearch/simsiam: simsiam/builder.py, main_simsiam.py"),
        Layout("official-linear", "torch", "", _TORCHVISION, classifier="fc", wrapper="module.", wraps="state_dict",
               source="facebookresearch/simsiam: main_lincls.py"),
        Layout("torchvision", "torch", "", ("torchvision", "shortcut"), classifier="fc",
               source="pytorch/vision: torchvision/models/resnet.py; kuangliu/pytorch-cifar"),
        Layout("passl", "paddle", "encoder.", _TORCHVISION, _PROJECTOR, _PREDICTOR,
               source="PaddlePaddle/PASSL: passl/models/simsiam.py"),
        Layout("passl-1", "paddle", "encoder.", _TORCHVISION, _PROJECTOR, MLP("predictor.mlp.", "sequence"),
               source="PaddlePaddle/PASSL 1: passl/modeling/architectures/simsiam.py, necks/base_neck.py"),
        Layout("paddle.vision", "paddle", "", _TORCHVISION, classifier="fc",
               source="PaddlePaddle/Paddle: python/paddle/vision/models/resnet.py; PASSL's *_encoder.pdparams"),
        Layout("paddleclas", "paddle", "", ("paddleclas",), classifier="fc",
               source="PaddlePaddle/PaddleClas: ppcls/arch/backbone/legendary_models/resnet.py"),
        Layout("paddledetection", "paddle", "", ("paddledetection",),
               source="PaddlePaddle/PaddleDetection: ppdet/modeling/backbones/resnet.py, name_adapter.py"),
        Layout("solo-learn", "torch", "backbone.", _TORCHVISION, MLP("projector.", "sequence"),
               MLP("predictor.", "sequence"), "classifier", wraps="state_dict",
               source="vturrisi/solo-learn: solo/methods/simsiam.py"),
        Layout("lightly", "torch", "backbone.", _CHILDREN,
               MLP("projection_head.layers.", "sequence", bias="none"), MLP("prediction_head.layers.", "sequence"),
               source="lightly-ai/lightly: lightly/models/modules/heads.py, examples/pytorch/simsiam.py"),
        Layout("lightly-1", "torch", "backbone.", _CHILDREN,
               MLP("projection_mlp.", "groups", bias="all", affine=True),
               MLP("prediction_mlp.", "groups", bias="all"),
               source="lightly-ai/lightly 1.0: lightly/models/simsiam.py, resnet.py"),
        Layout("mmselfsup", "torch", "backbone.", _TORCHVISION, MLP("neck.", "fc and bn", bias="none"),
               MLP("head.predictor.", "fc and bn"), "head.fc", wraps="state_dict",
               source="open-mmlab/mmselfsup and mmpretrain: models/necks/nonlinear_neck.py, SimSiam's configuration"),
        Layout("patrickhua", "torch", "backbone.", ("torchvision", "shortcut"),
               MLP("projector.", "layers", bias="all", affine=True), MLP("predictor.", "layers", bias="all"),
               aliases={"encoder.0.": "backbone.", "encoder.1.": "projector."}, wraps="state_dict",
               source="PatrickHua/SimSiam: models/simsiam.py, models/backbones"),
        Layout("leftthomas", "torch", "f.", ("children, no pool",), MLP("g.", "sequence", bias="none", affine=True),
               MLP("h.", "sequence"), "fc", source="leftthomas/SimSiam: model.py, linear.py"),
    )
}  # fmt: skip

# Tensors that are no weights, by the end of their names, and why they are left out.
IGNORED: dict[str, str] = {
    "data_preprocessor.mean": "the trainer's normalisation; a recipe has its own",
    "data_preprocessor.std": "the trainer's normalisation; a recipe has its own",
}
# What an unexplained tensor means, by a part of its name.
HINTS: dict[str, str] = {
    "blocks.0.short.": "PaddleClas projects in the first block of ResNet-18 and 34; ours, as published, do not",
    "stem.2.": "the three-layer stem of a ResNet-vd",
    "momentum_": "a momentum encoder (BYOL, MoCo), which SimSiam lacks",
}


def layout_of(name: str) -> Layout:
    """The layout that `name` means: a key of LAYOUTS, or one with "/" and its only way of naming blocks.

    Raises:
        UserError: there is none.
    """
    base, _, blocks = name.partition("/")
    if base not in LAYOUTS:
        raise UserError(f"unknown format {base!r}; {suggest(base, LAYOUTS)}")
    layout = LAYOUTS[base]
    if blocks and blocks not in layout.blocks:
        raise UserError(f"format {base!r} has no blocks {blocks!r}; {suggest(blocks, layout.blocks)}")
    return replace(layout, blocks=(blocks,)) if blocks else layout


def backbone_names(depth: int, blocks: str) -> Iterator[tuple[str, str, str]]:
    """(kind, our name, the project's name) of every module of a ResNet; names without their prefixes.

    Args:
        depth: a key of DEPTHS. blocks: a key of BACKBONES.
    """
    ours, theirs = BACKBONES["torchvision"], BACKBONES[blocks]
    depths, bottleneck = DEPTHS[depth]
    yield "conv", ours[0], theirs[0]
    yield "bn", ours[1], theirs[1]
    k = 0  # blocks so far
    for s, count in enumerate(depths, start=1):
        for b in range(count):
            letter = "abcdefgh"[b] if count <= 10 or b == 0 else f"b{b}"
            place = {"s": s, "b": b, "k": k, "s1": s + 1, "s2": s + 2, "s3": s + 3, "letter": letter}
            for n in range(1, 4 if bottleneck else 3):
                fields = {**place, "n": n, "n0": n - 1, "abc": "_abc"[n]}
                yield "conv", ours[2].format(**fields), theirs[2].format(**fields)
                yield "bn", ours[3].format(**fields), theirs[3].format(**fields)
            if b == 0 and (bottleneck or s > 1):
                yield "conv", ours[4].format(**place), theirs[4].format(**place)
                yield "bn", ours[5].format(**place), theirs[5].format(**place)
            k += 1


def mlp_names(mlp: MLP, i: int) -> tuple[str, str, str]:
    """Layer i's names in a layout: its linear part, its batch norm, and the linear part where it has no batch norm."""
    fields = {"i": i, "i1": i + 1, "l": 3 * i, "m": 3 * i + 1}
    linear, bn, bare = (mlp.prefix + name.format(**fields) for name in MLPS[mlp.names])
    return linear, bn, bare
