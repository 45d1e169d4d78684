"""Models in other projects' layouts, written with torch for the tests: their names, their order, random weights.

Each is a module whose `forward` returns the outputs it has: features, z, p or logits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, HIDDEN, OUT, BOTTLENECK = 8, 24, 20, 12


class Block(nn.Module):
    """Basic or bottleneck block; `shortcut` names the projection, which kuangliu's always has as a Sequential."""

    def __init__(self, channels: int, narrow: int, stride: int, bottleneck: bool, shortcut: str) -> None:
        super().__init__()
        wide = narrow * 4 if bottleneck else narrow
        sizes = [(channels, narrow, 1, 1), (narrow, narrow, 3, stride), (narrow, wide, 1, 1)]
        if not bottleneck:
            sizes = [(channels, narrow, 3, stride), (narrow, wide, 3, 1)]
        for n, (a, b, kernel, step) in enumerate(sizes, start=1):
            self.add_module(f"conv{n}", nn.Conv2d(a, b, kernel, step, kernel // 2, bias=False))
            self.add_module(f"bn{n}", nn.BatchNorm2d(b))
        self.count, self.projection = len(sizes), shortcut
        projects = stride > 1 or channels != wide
        projection = [nn.Conv2d(channels, wide, 1, stride, bias=False), nn.BatchNorm2d(wide)] if projects else []
        self.add_module(shortcut, nn.Sequential(*projection))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for n in range(1, self.count + 1):
            y = getattr(self, f"bn{n}")(getattr(self, f"conv{n}")(y))
            y = torch.relu(y) if n < self.count else y
        return torch.relu(y + getattr(self, self.projection)(x))


class ResNet(nn.Module):
    """torchvision's modules in torchvision's order, of any width; `pool` and `relu` as modules or not."""

    def __init__(self, depth: int, stem: str, shortcut: str = "downsample", classes: int = 0, pool: bool = True,
                 relu: bool = True) -> None:  # fmt: skip
        super().__init__()
        counts, bottleneck = {18: ([2, 2, 2, 2], False), 50: ([3, 4, 6, 3], True)}[depth]
        self.conv1 = (
            nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False) if stem == "imagenet" else nn.Conv2d(3, WIDTH, 3, 1, 1, bias=False)
        )
        self.bn1 = nn.BatchNorm2d(WIDTH)
        if relu:
            self.relu = nn.ReLU()
        if pool:
            self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        channels = WIDTH
        for s, count in enumerate(counts, start=1):
            narrow, blocks = WIDTH * 2 ** (s - 1), []
            for b in range(count):
                blocks.append(Block(channels, narrow, 2 if s > 1 and b == 0 else 1, bottleneck, shortcut))
                channels = narrow * (4 if bottleneck else 1)
            self.add_module(f"layer{s}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.out_channels = channels
        self.fc = nn.Linear(channels, classes) if classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.maxpool(x) if hasattr(self, "maxpool") else x
        for s in range(1, 5):
            x = getattr(self, f"layer{s}")(x)
        return self.fc(self.avgpool(x).flatten(1))


class Children(nn.Sequential):
    """nn.Sequential of a ResNet's children but the last, as lightly and leftthomas build backbones."""

    def __init__(self, net: ResNet) -> None:
        modules = list(net.children())[:-1]
        super().__init__(*modules)
        self.functional_relu = not hasattr(net, "relu")

    def forward(self, x: Tensor) -> Tensor:
        for i, module in enumerate(self):
            x = module(x)
            x = torch.relu(x) if self.functional_relu and i == 1 else x
        return x.flatten(1)


def sequence(widths: list[int], bias: str, affine: bool, last_bn: bool) -> list[nn.Module]:
    """Linear, batch norm, ReLU, ... as a list of modules; `bias` of linear layers: all, last or none."""
    modules: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        last = i == len(widths) - 2
        modules.append(nn.Linear(a, b, bias=bias == "all" or (last and (bias == "last" or not last_bn))))
        if not last or last_bn:
            modules.append(nn.BatchNorm1d(b, affine=affine or not last))
        if not last:
            modules.append(nn.ReLU())
    return modules


def groups(modules: list[nn.Module]) -> list[nn.Module]:
    """A flat list cut behind each ReLU into Sequentials; a linear layer that stands alone stays alone."""
    parts: list[list[nn.Module]] = [[]]
    for module in modules:
        parts[-1].append(module)
        if isinstance(module, nn.ReLU):
            parts.append([])
    return [part[0] if len(part) == 1 else nn.Sequential(*part) for part in parts]


class Named(nn.Module):
    """Modules under given names, run one after the other."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x)
        return x


def layers(modules: list[nn.Module]) -> Named:
    return Named(**{f"layer{i}": group for i, group in enumerate(groups(modules), start=1)})


def fc_and_bn(modules: list[nn.Module]) -> Named:
    names: dict[str, nn.Module] = {}
    for module in modules:
        kind = {nn.Linear: "fc", nn.BatchNorm1d: "bn"}.get(type(module), "relu")
        names[f"{kind}{sum(name.startswith(kind) for name in names)}"] = module
    return Named(**names)


class SimSiam(nn.Module):
    """Backbone, projector and predictor under given names; `before` and `after` are other modules of the project."""

    def __init__(self, names: tuple[str, str, str], backbone: nn.Module, neck: nn.Module, head: nn.Module,
                 **more: nn.Module) -> None:  # fmt: skip
        super().__init__()
        self.names = names
        for name, module in zip(names, (backbone, neck, head), strict=True):
            home, _, leaf = name.rpartition(".")
            if home and not hasattr(self, home):
                self.add_module(home, nn.Module())
            (self.get_submodule(home) if home else self).add_module(leaf, module)
        for name, module in more.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        out, results = x, {}
        for part, name in zip(("backbone", "neck", "head"), self.names, strict=True):
            out = results[part] = self.get_submodule(name)(out)
        return results


class Official(nn.Module):
    """encoder with its projector in place of fc, and predictor."""

    def __init__(self, depth: int, stem: str, hidden: int | None = None) -> None:
        super().__init__()
        self.encoder = ResNet(depth, stem)
        c = self.encoder.out_channels
        self.encoder.fc = nn.Sequential(*sequence([c, c, c, OUT], "last", False, True))
        self.predictor = nn.Sequential(*sequence([OUT, BOTTLENECK, OUT], "last", False, False))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fc, self.encoder.fc = self.encoder.fc, nn.Identity()
        features = self.encoder(x)
        self.encoder.fc = fc
        z = fc(features)
        return {"backbone": features, "neck": z, "head": self.predictor(z)}


class Classifier(nn.Module):
    """A ResNet with fc, its state dict that of the network alone."""

    def __init__(self, depth: int, stem: str, shortcut: str = "downsample") -> None:
        super().__init__()
        self.net = ResNet(depth, stem, shortcut, classes=OUT)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fc, self.net.fc = self.net.fc, nn.Identity()
        features = self.net(x)
        self.net.fc = fc
        return {"backbone": features, "head": fc(features)}


def _mlps(
    c: int, bias: str, affine: bool, depth: int = 3, head_bias: str = "last"
) -> tuple[list[nn.Module], list[nn.Module]]:
    widths = [c, HIDDEN, HIDDEN, OUT] if depth == 3 else [c, HIDDEN, OUT]
    return sequence(widths, bias, affine, True), sequence([OUT, BOTTLENECK, OUT], head_bias, False, False)


def official() -> Any:
    return Official(50, "imagenet")


def official_cifar() -> Any:
    return Official(18, "cifar")


def solo() -> Any:
    net = ResNet(18, "cifar")
    neck, head = _mlps(net.out_channels, "last", False)
    names = ("backbone", "projector", "predictor")
    return SimSiam(names, net, nn.Sequential(*neck), nn.Sequential(*head), classifier=nn.Linear(net.out_channels, 10))


def lightly() -> Any:
    net = ResNet(18, "imagenet")
    neck, head = _mlps(net.out_channels, "none", False)
    names = ("backbone", "projection_head.layers", "prediction_head.layers")
    return SimSiam(names, Children(net), nn.Sequential(*neck), nn.Sequential(*head))


def lightly_1() -> Any:
    net = ResNet(18, "cifar", "shortcut", pool=False, relu=False)
    neck, head = _mlps(net.out_channels, "all", True, head_bias="all")
    names = ("backbone", "projection_mlp", "prediction_mlp")
    return SimSiam(names, Children(net), nn.Sequential(*groups(neck)), nn.Sequential(*groups(head)))


def mmselfsup() -> Any:
    net = ResNet(50, "imagenet")
    neck, head = _mlps(net.out_channels, "none", False)
    return SimSiam(("backbone", "neck", "head.predictor"), net, fc_and_bn(neck), fc_and_bn(head))


def patrickhua(shortcut: str = "downsample") -> Any:
    net = ResNet(18, "cifar", shortcut)
    neck, head = _mlps(net.out_channels, "all", True, head_bias="all")
    model = SimSiam(("backbone", "projector", "predictor"), net, layers(neck), layers(head))
    model.encoder = nn.Sequential(model.backbone, model.projector)
    return model


def patrickhua_shortcut() -> Any:
    return patrickhua("shortcut")


def leftthomas() -> Any:
    net = ResNet(18, "cifar", pool=False)
    neck, head = _mlps(net.out_channels, "none", True, depth=2)
    return SimSiam(("f", "g", "h"), Children(net), nn.Sequential(*neck), nn.Sequential(*head))


def torchvision_fc() -> Any:
    return Classifier(50, "imagenet")


def kuangliu_fc() -> Any:
    return Classifier(18, "cifar", "shortcut")


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights that keep signals in range, and batch norms as if they had seen data, each with another count.

    Each block adds little to its shortcut, as after a start from zero. With blocks of full strength, rounding in
    float32 alone moves the outputs of a ResNet-50 in training mode by 5e-5, in torch as in Paddle.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor, mean: float, std: float) -> None:
        with torch.no_grad():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * std + mean)

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            draw(module.weight, 0, module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                draw(module.bias, 0, 0.3)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            if module.affine:
                draw(module.weight, 1, 0.2)
                draw(module.bias, 0, 0.2)
            draw(module.running_mean, 0, 0.2)
            draw(module.running_var, 1, 0.1)
            module.num_batches_tracked.fill_(100)
    for module in model.modules():
        if isinstance(module, Block):
            with torch.no_grad():
                last = getattr(module, f"bn{module.count}")
                last.weight.mul_(0.2), last.bias.mul_(0.2)
    return model


def _wrapped(state: dict[str, Tensor]) -> dict[str, Any]:
    return {"epoch": 7, "state_dict": state}


def _official(state: dict[str, Tensor]) -> dict[str, Any]:
    return {"epoch": 3, "arch": "resnet50", "state_dict": _prefixed(state, "module."), "optimizer": {}}


def _mm(state: dict[str, Tensor]) -> dict[str, Any]:
    return {"meta": {"epoch": 1}, "state_dict": state | {"data_preprocessor.mean": torch.ones(3, 1, 1)}}


# name: layout (and blocks), model, how the project saves its state dict, what does not come back
FORMATS: dict[str, tuple[str, Callable[[], Any], Callable[[dict[str, Tensor]], Any], tuple[str, ...]]] = {
    "official": ("official", official, _official, ()),
    "official without DataParallel": ("official", official_cifar, _wrapped, ()),
    "official linear": ("official-linear", torchvision_fc, lambda s: _official(_bare(s)), ()),
    "torchvision": ("torchvision", torchvision_fc, lambda s: _bare(s), ()),
    "torchvision without fc": ("torchvision", torchvision_fc, lambda s: _bare(s, without="fc."), ()),
    "kuangliu": ("torchvision/shortcut", kuangliu_fc, lambda s: {"net": _bare(s), "acc": 90.1}, ()),
    "solo-learn": ("solo-learn", solo, _wrapped, ("classifier.",)),
    "lightly": ("lightly", lightly, lambda s: s, ()),
    "lightly in a trainer": ("lightly", lightly, lambda s: _wrapped(_prefixed(s, "model.")), ()),
    "lightly 1": ("lightly-1/children, shortcut", lightly_1, _wrapped, ()),
    "mmselfsup": ("mmselfsup", mmselfsup, _mm, ("data_preprocessor.",)),
    "patrickhua": ("patrickhua", patrickhua, _wrapped, ()),
    "patrickhua variant 2": ("patrickhua/shortcut", patrickhua_shortcut, _wrapped, ()),
    "leftthomas": ("leftthomas", leftthomas, lambda s: s, ()),
}


def _prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def _bare(state: dict[str, Tensor], without: str | None = None) -> dict[str, Tensor]:
    bare = {name.removeprefix("net."): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in bare.items() if without is None or not name.startswith(without)}
