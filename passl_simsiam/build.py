"""From config nodes to objects: the only place where the two meet.

What is derived (image size, widths, the scaled learning rate, the number of classes) is computed here and handed to
constructors; it is never written back into the config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from passl_simsiam.config.schema import Component, Config, Split
from passl_simsiam.errors import UserError
from passl_simsiam.registry import (
    BACKBONES,
    DATASETS,
    HEADS,
    LOSSES,
    METHODS,
    NECKS,
    OPTIMIZERS,
    SCHEDULES,
    TRANSFORMS,
    Registry,
)

if TYPE_CHECKING:
    from paddle import nn

    from passl_simsiam.data.base import Dataset, Transform
    from passl_simsiam.data.loader import Loader
    from passl_simsiam.distributed import World
    from passl_simsiam.optim.groups import ParamGroup
    from passl_simsiam.optim.momentum import Momentum
    from passl_simsiam.optim.schedules import Schedule


def component(registry: Registry, node: Component, where: str, **supplied: Any) -> Any:
    """Check `node` against its constructor and call it. `supplied` are the derived arguments; those that the
    constructor does not take are left out. Raises UserError."""
    arguments = registry.check(node.name, node.arguments, where)
    constructor = registry.get(node.name)
    taken = registry.parameters(node.name)
    return constructor(**arguments, **{key: value for key, value in supplied.items() if key in taken})


def dataset(split: Split, where: str) -> Dataset:
    from passl_simsiam.data.datasets import subset

    whole: Dataset = component(DATASETS, split.dataset, f"{where}.dataset")
    chosen = split.dataset.subset
    if chosen is None:
        return whole
    if isinstance(chosen, str):
        return subset.listed(whole, chosen)
    return subset.share(whole, chosen.fraction, chosen.seed)


def transform(split: Split, where: str) -> Transform:
    return component(TRANSFORMS, split.dataset.transform, f"{where}.dataset.transform")


def loader(split: Split, where: str, data: Dataset, views: Transform, seed: int, world: World) -> Loader:
    """The loader of one split. Raises UserError when its batch cannot be drawn from the data set."""
    from passl_simsiam.data.loader import Loader

    batch = split.sampler.batch_size
    if split.sampler.drop_last and batch > len(data):
        raise UserError(
            f"{where}.sampler.batch_size: {batch} is larger than the data set ({len(data)} images), and drop_last "
            "would drop every image; take a smaller batch or drop_last: false"
        )
    if batch % world.size:
        raise UserError(
            f"{where}.sampler.batch_size: {batch} is global and cannot be shared equally by {world.size} ranks"
        )
    return Loader(
        data,
        views,
        batch_size=batch,
        shuffle=split.sampler.shuffle,
        drop_last=split.sampler.drop_last,
        seed=seed,
        num_workers=split.loader.num_workers,
        timeout=split.loader.timeout,
        max_restarts=split.loader.max_restarts,
        max_bad_fraction=split.loader.max_bad_fraction,
        rank=world.rank,
        world=world.size,
    )


class Images(Protocol):
    """What a model's sizes depend on: a data set, or what is known of one."""

    @property
    def in_channels(self) -> int: ...

    @property
    def classes(self) -> list[str] | None: ...


def model(config: Config, data: Images, image_size: int) -> nn.Layer:
    """The method with its backbone, neck and head, sized for the data. Raises UserError."""
    node = config.Model
    arguments = dict(node.backbone.arguments)
    arguments.setdefault("in_channels", data.in_channels)
    backbone = component(
        BACKBONES, Component(name=node.backbone.name, **arguments), "Model.backbone", image_size=image_size
    )
    parts: dict[str, nn.Layer] = {"backbone": backbone}
    width = backbone.out_channels
    if node.neck:
        parts["neck"] = component(NECKS, node.neck, "Model.neck", in_channels=width)
        width = parts["neck"].out_channels
    if node.head:
        head = dict(node.head.arguments)
        if "num_classes" in HEADS.parameters(node.head.name) and data.classes is not None:
            head.setdefault("num_classes", len(data.classes))
        parts["head"] = component(HEADS, Component(name=node.head.name, **head), "Model.head", in_channels=width)
    wanted = METHODS.parameters(node.name)
    for part in ("neck", "head"):
        if part in parts and part not in wanted:
            raise UserError(f"Model.{part}: {node.name} has no {part}; leave it out (null)")
        if part in wanted and part not in parts:
            raise UserError(f"Model.{part}: {node.name} needs a {part}, and the recipe does not give it")
    return METHODS.get(node.name)(**parts)


def loss(config: Config) -> Callable[[Mapping[str, Any]], Any]:
    return component(LOSSES, config.Loss, "Loss")


def base_rate(config: Config) -> float:
    """The learning rate scaled linearly with the global batch (paper, section 4.1: lr * batch / 256)."""
    node = config.LRScheduler
    batch = config.DataLoader.Train.sampler.batch_size
    return node.learning_rate * (batch / node.reference_batch if node.reference_batch else 1.0)


def schedule(config: Config, steps_per_epoch: int) -> Schedule:
    """A pure function from the step (0-based) to the rate."""
    node = Component(name=config.LRScheduler.name, **config.LRScheduler.arguments)
    return component(
        SCHEDULES,
        node,
        "LRScheduler",
        base_rate=base_rate(config),
        epochs=config.Global.epochs,
        steps_per_epoch=steps_per_epoch,
    )


def parameter_groups(config: Config, model: nn.Layer) -> list[ParamGroup]:
    """The trainable parameters: one group for each part that the recipe names, one for the rest. Raises UserError."""
    from passl_simsiam.optim.groups import GroupRule, split_parameters

    rules = [
        GroupRule(part, part, node.rate, node.multiplier) for part, node in (config.Optimizer.groups or {}).items()
    ]
    return split_parameters(model, rules)


def optimizer(config: Config, groups: list[ParamGroup]) -> Momentum:
    return component(OPTIMIZERS, config.Optimizer, "Optimizer", groups=groups)


def check(config: Config) -> None:
    """Check every component node of a recipe against its constructor, building nothing. Raises UserError."""
    for node, registry, where in _nodes(config):
        if node is not None:
            registry.check(node.name, node.arguments, where, complete=False)


def _nodes(config: Config) -> list[tuple[Component | None, Registry, str]]:
    splits = [("Train", config.DataLoader.Train), ("Eval", config.DataLoader.Eval)]
    return [
        (config.Model.backbone, BACKBONES, "Model.backbone"),
        (config.Model.neck, NECKS, "Model.neck"),
        (config.Model.head, HEADS, "Model.head"),
        (Component(name=config.Model.name), METHODS, "Model"),
        (config.Loss, LOSSES, "Loss"),
        (config.Optimizer, OPTIMIZERS, "Optimizer"),
        (Component(name=config.LRScheduler.name, **config.LRScheduler.arguments), SCHEDULES, "LRScheduler"),
        *[
            (node, registry, f"DataLoader.{name}.{where}")
            for name, split in splits
            if split
            for node, registry, where in (
                (split.dataset, DATASETS, "dataset"),
                (split.dataset.transform, TRANSFORMS, "dataset.transform"),
            )
        ],
    ]
