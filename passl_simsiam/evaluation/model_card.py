"""README.md of a run: what the weights in this folder are, how good, and what they are not good for.

Everything in it is taken from the run's own records. Two parts are the user's: a README.md that was not written here is
left alone, and the text under "Licence" stays when the rest is written anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passl_simsiam.evaluation import scorecard

CARD = "README.md"
MARK = "<!-- Written by passl_simsiam, anew after each score; what stands under Licence is kept. -->"
LICENCE = "## Licence\n"
_NO_LICENCE = (
    "\nNot stated yet: whoever hands these weights on writes it here. The terms of the training images, and of the "
    "weights that training started from, may bind it.\n"
)
_TASKS = {"pretrain": "pretrained without labels", "linear_probe": "linear probe", "finetune": "fine-tuned"}

# What published figures were reached with, to measure a small run against.
IMAGENET_IMAGES, PUBLISHED_EPOCHS, PUBLISHED_WIDTH = 1_281_167, 100, 64


@dataclass(frozen=True)
class Facts:
    """What a card is made from.

    Attributes:
        name: the run's folder, as the user types it.
        config: the resolved recipe, as plain data.
        state: of the checkpoint: "step", "epoch", "images" seen, "metrics", "best" and "best_by", and, where
            its version recorded them, "data" (classes, mean, std) and "processes".
        checkpoint: its name and the sha256 of its weights.
        records: of metrics.jsonl.
        entries: of the scorecard.
    """

    name: str
    config: Mapping[str, Any]
    state: Mapping[str, Any]
    checkpoint: tuple[str, str]
    records: Sequence[Mapping[str, Any]] = ()
    entries: Sequence[scorecard.Entry] = ()

    @property
    def task(self) -> str:
        return self.config["Global"]["task"]

    @property
    def train(self) -> Mapping[str, Any]:
        return self.config["DataLoader"]["Train"]

    @property
    def classes(self) -> Sequence[str]:
        """Of the training images; none where they have no labels, or where these were not recorded."""
        return (self.state.get("data") or {}).get("classes") or ()

    @property
    def images_an_epoch(self) -> int:
        """Training images of an epoch, without those of a last batch that was left out."""
        return round(self.state["images"] / max(self.state["epoch"], 1))

    def score(self, key: str) -> float | None:
        """The checkpoint's, a fraction of 1."""
        return self.state.get("metrics", {}).get(key)

    def untrained(self, key: str) -> float | None:
        """The same before the first step."""
        return next((r[key] for r in self.records if r["step"] == 0 and r.get(key) is not None), None)


def write_model_card(folder: Path, facts: Facts) -> Path | None:
    """Write README.md into `folder`; None where a README.md of somebody else's is there. Raises OSError."""
    path, licence = folder / CARD, _NO_LICENCE
    if path.exists():
        before = path.read_text(encoding="utf-8")
        if MARK not in before:
            return None
        licence = before.partition(LICENCE)[2] or licence
    aside = folder / f".{CARD}.part"
    aside.write_text(model_card(facts) + LICENCE + licence, encoding="utf-8")
    aside.replace(path)
    return path


def model_card(facts: Facts) -> str:
    """The card without its licence, Markdown."""
    backbone = facts.config["Model"]["backbone"]["name"]
    title = f"{facts.config['Model']['name']} {backbone}, {_TASKS[facts.task]}"
    parts = {"Use": _use(facts), "Data": _data(facts), "Recipe": _recipe(facts), "Scores": _scores(facts)}
    parts["Limits"] = "".join(f"- {limit}\n" for limit in limits(facts))
    return f"{MARK}\n\n# {title}\n\n" + "".join(f"## {name}\n\n{text}\n" for name, text in parts.items())


def _use(facts: Facts) -> str:
    lines = [
        "import passl_simsiam",
        f"backbone = passl_simsiam.load_backbone({facts.name!r})",
        'features = passl_simsiam.extract(backbone, "photos/")',
    ]
    commands = [f"passl-export {facts.name} exported --raw"]
    if facts.task != "pretrain":
        commands.insert(0, f"passl-predict {facts.name} photos/ predictions.csv")
    return (
        "```python\n" + "\n".join(lines) + "\n```\n\n```bash\n" + "\n".join(commands) + "\n```\n\n"
        f"Both prepare the pictures as training's evaluation did: {_node(_view(facts))}"
        + (f", mean {_numbers(data['mean'])}, std {_numbers(data['std'])}" if (data := facts.state.get("data")) else "")
        + ".\n"
    )


def _view(facts: Facts) -> Mapping[str, Any]:
    split = facts.config["DataLoader"].get("Eval")
    if split:
        return split["dataset"]["transform"]
    return {"name": "a resized view", "size": facts.train["dataset"]["transform"].get("size", "as in training")}


def _data(facts: Facts) -> str:
    dataset = facts.train["dataset"]
    rows = [f"images: {_node({k: v for k, v in dataset.items() if k != 'transform'})}"]
    rows.append(f"about {facts.images_an_epoch:,} of them an epoch, views by {_node(dataset['transform'])}")
    if facts.classes:
        names = ", ".join(facts.classes) if len(facts.classes) <= 20 else "names in the checkpoint's state.json"
        used = "not used for training" if facts.task == "pretrain" else "trained on"
        rows.append(f"{len(facts.classes)} classes, {used}: {names}")
    elif "data" in facts.state:
        rows.append("no labels")
    return "".join(f"- {row}\n" for row in rows)


def _recipe(facts: Facts) -> str:
    config, state = facts.config, facts.state
    model, rate = config["Model"], config["LRScheduler"]
    rows = [f"{part}: {_node(model[part])}" for part in ("backbone", "neck", "head") if model.get(part)]
    if start := config["Global"].get("pretrained_model"):
        rows.append(f"backbone weights from {start}" + (", frozen" if facts.task == "linear_probe" else ""))
    batch, reference = facts.train["sampler"]["batch_size"], rate.get("reference_batch")
    scaled = f" x {batch} / {reference}" if reference else ""
    rows += [
        f"loss {_node(config['Loss'])}",
        f"optimizer {_node({k: v for k, v in config['Optimizer'].items() if v is not None})}",
        f"learning rate {rate['learning_rate']:g}{scaled}, {rate['name']}; batch {batch}",
        f"{state['epoch']} of {config['Global']['epochs']} epochs, {state['step']:,} steps, "
        f"seed {config['Global'].get('seed', 0)}, {state.get('processes') or 1} process(es)",
    ]
    name, sha256 = facts.checkpoint
    return "".join(f"- {row}\n" for row in rows) + (
        f"\nAll of it is in config.yaml. This card speaks of `checkpoints/{name}`, whose model.safetensors has sha256 "
        f"`{sha256}`.\n"
    )


def _scores(facts: Facts) -> str:
    rows = _monitored(facts)
    text = ""
    if rows:
        text = "Taken while it trained, in %:\n\n| score | value | depends on |\n|---|---:|---|\n"
        text += "".join(f"| {name} | {100 * value:.2f} | {protocol} |\n" for name, value, protocol in rows)
    if facts.entries:
        text += f"\n{scorecard.table(scorecard.latest(facts.entries))}"
    return text or "None was taken: these weights are of unknown quality. `passl-eval` takes some.\n"


def _monitored(facts: Facts) -> list[tuple[str, float, str]]:
    """(name, value, what it depends on) of the scores in metrics.jsonl, with what they are to be compared with."""
    split = facts.config["DataLoader"].get("Eval")
    images = f"images of {_node({k: v for k, v in split['dataset'].items() if k != 'transform'})}" if split else ""
    view = _node(_view(facts))
    rows = []
    knn = (facts.config.get("Evaluation") or {}).get("knn") or {}
    protocol = f"k={knn.get('k')}, T={knn.get('temperature')}, cosine, backbone features, {images}, {view}"
    for name, value in (
        ("kNN top-1", facts.score("eval/knn_top1")),
        ("the same, random weights", facts.untrained("eval/knn_top1")),
        ("the same, raw pixels", facts.untrained("eval/raw_pixels_knn_top1")),
    ):
        if value is not None:
            rows.append((name, value, protocol))
    for k in (1, 5):
        if (value := facts.score(f"eval/top{k}")) is not None:
            rows.append((f"top-{k}", value, f"{images}, {view}"))
    if rows and facts.classes:
        rows.append(("guessing, top-1", 1 / len(facts.classes), f"{len(facts.classes)} classes"))
    return rows


def limits(facts: Facts) -> list[str]:
    """What a reader should not expect, a sentence or two each, from the run's own facts."""
    config, state = facts.config, facts.state
    found: list[str] = []
    epochs, width = config["Global"]["epochs"], config["Model"]["backbone"].get("width", PUBLISHED_WIDTH)
    if state["epoch"] < epochs:
        found.append(f"Unfinished: {state['epoch']} of the recipe's {epochs} epochs.")
    found += _weakness(facts)
    if facts.images_an_epoch < IMAGENET_IMAGES / 2:
        share = IMAGENET_IMAGES / max(facts.images_an_epoch, 1)
        found.append(
            f"Trained on about {facts.images_an_epoch:,} images, {share:,.0f} times fewer than ImageNet: do not expect "
            "it to know pictures of another kind than these."
        )
    if isinstance(size := facts.train["dataset"]["transform"].get("size"), int) and size < 224:
        found.append(f"It has seen {size} x {size} pixels only: finer detail is lost before the network looks.")
    small = []
    if facts.task == "pretrain" and epochs < PUBLISHED_EPOCHS:
        small.append(f"{epochs} epochs where published runs take {PUBLISHED_EPOCHS} and more")
    if isinstance(width, int) and width < PUBLISHED_WIDTH:
        small.append(f"width {width} where the published backbone has {PUBLISHED_WIDTH}")
    if small:
        found.append(f"A reduced recipe ({', '.join(small)}): published accuracies are not to be expected.")
    if (state.get("best_by") or "").startswith("eval/") and state.get("best") is not None:
        found.append(
            f"`checkpoints/best` was chosen by {state['best_by']} on the images that it is scored on: that score is a "
            "little optimistic."
        )
    found.append(
        f"One run with seed {config['Global'].get('seed', 0)}: how much another seed changes the scores, and how the "
        "network does on other data than those above, was not measured."
    )
    return found


def _weakness(facts: Facts) -> list[str]:
    """Scores that say less than they seem to."""
    key = "eval/knn_top1" if facts.task == "pretrain" else "eval/top1"
    score = facts.score(key)
    if score is None:
        return ["No score was taken while it trained: nothing here says that its features are any good."]
    found = []
    if facts.classes:
        chance = 1 / len(facts.classes)
        weak = "hardly more than" if score < 1.5 * chance else f"{score / chance:.1f} times"
        found.append(
            f"Wrong for {100 * (1 - score):.0f} of 100 images ({key}); {weak} what guessing among "
            f"{len(facts.classes)} classes gives."
        )
    for name, before in (
        ("raw pixels", facts.untrained("eval/raw_pixels_knn_top1")),
        ("random weights", facts.untrained("eval/knn_top1")),
    ):
        if key == "eval/knn_top1" and before is not None and score <= before:
            found.append(f"By kNN no better than {name}: {100 * score:.1f} against {100 * before:.1f} %.")
    return found


def _node(node: Mapping[str, Any]) -> str:
    """A component of the recipe, "ResNet18(width=8, stem=cifar)"."""
    arguments = ", ".join(
        f"{key}={_plain(value)}" for key, value in node.items() if key != "name" and value is not None
    )
    return f"{node['name']}({arguments})" if arguments else str(node["name"])


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_plain(item)}" for key, item in value.items()) + "}"
    return f"[{', '.join(map(_plain, value))}]" if isinstance(value, (list, tuple)) else str(value)


def _numbers(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"
