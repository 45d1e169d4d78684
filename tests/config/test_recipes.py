"""Recipes: what is read, what overrides do, and how every kind of mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from passl_simsiam.config import Config, load_config, to_yaml
from passl_simsiam.errors import UserError

RECIPE = """\
Global: {output_dir: output/x, epochs: 3}
Model: {name: SimSiam, backbone: {name: ResNet18, width: 8}}
Loss: {name: NegativeCosine}
Optimizer: {name: Momentum, weight_decay: 1e-4, groups: {head: {rate: constant}}}
LRScheduler: {name: Cosine, learning_rate: 5e-2}
DataLoader:
  Train:
    dataset: {name: Digits, split: train, transform: {name: DigitsViews}}
    sampler: {batch_size: 64}
  Eval:
    dataset: {split: val, transform: {name: Resize, size: 16}}
    sampler: {batch_size: 64}
Evaluation:
  few_label: {labels_per_class: [1, 5, 10]}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_numbers_are_read_as_numbers(recipe: Path) -> None:
    config = load_config(recipe)
    assert config.Optimizer.arguments == {"weight_decay": 1e-4}
    assert config.LRScheduler.learning_rate == 0.05


def test_resolved_recipe_reads_back_equal(recipe: Path, tmp_path: Path) -> None:
    config = load_config(recipe, ["Global.epochs=7"])
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(config))
    assert load_config(again) == config


def test_config_is_frozen(recipe: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config(recipe).Global.epochs = 5


def test_evaluation_takes_the_training_data_set_where_it_says_nothing(recipe: Path) -> None:
    config = load_config(recipe, ["DataLoader.Train.dataset.root=/photos"])
    assert config.DataLoader.Eval is not None
    assert config.DataLoader.Eval.dataset.arguments == {"split": "val", "root": "/photos"}
    assert config.DataLoader.Eval.dataset.transform.name == "Resize"
    other = load_config(recipe, ["DataLoader.Train.dataset.root=/photos", "DataLoader.Eval.dataset.name=ImageFolder"])
    assert other.DataLoader.Eval is not None
    assert other.DataLoader.Eval.dataset.arguments == {"split": "val"}


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("Global.epochs=5", lambda c: c.Global.epochs == 5),
        ("Model.backbone.stem=a=b", lambda c: c.Model.backbone.arguments["stem"] == "a=b"),
        ("Evaluation.few_label.labels_per_class.1=7", lambda c: c.Evaluation.few_label.labels_per_class == (1, 7, 10)),
        ("Evaluation.knn=null", lambda c: c.Evaluation.knn is None),
        ("Evaluation.knn.k=20", lambda c: c.Evaluation.knn.k == 20),
        ("LRScheduler.learning_rate=1e-3", lambda c: c.LRScheduler.learning_rate == 1e-3),
        ("DataLoader.Train.loader={num_workers: 3}", lambda c: c.DataLoader.Train.loader.num_workers == 3),
    ],
)
def test_overrides(recipe: Path, override: str, read) -> None:
    assert read(load_config(recipe, [override]))


def test_later_overrides_win(recipe: Path) -> None:
    assert load_config(recipe, ["Global.epochs=5", "Global.epochs=6"]).Global.epochs == 6


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("Global.epochs=0", "Global.epochs: 0 (integer) is not valid"),
        ('Global.epochs="3"', "Global.epochs: '3' (string) is not valid"),
        ("Global.epochs=2.5", "Global.epochs: 2.5 (number)"),
        ("Global.epoch=3", "Global.epoch: unknown key 'epoch'; did you mean 'epochs'? choices: "),
        ("Globall.epochs=3", "Globall: unknown section 'Globall'; did you mean 'Global'? choices: "),
        ("Global.epochs.x=3", "Global.epochs is 3 (integer): it has no keys"),
        ("Global.checkpoint=None", "Global.checkpoint: 'None' is a string in YAML; nothing is written null"),
        ("Model.backbone.stem=None", "Model.backbone.stem: 'None' is a string in YAML"),
        ("Evaluation.few_label.labels_per_class.3=7", "is a list of 3; its items are 0 to 2"),
        ("Evaluation.few_label.labels_per_class=[1, 0]", "Evaluation.few_label.labels_per_class.1: 0 (integer)"),
        ("LRScheduler.learning_rate=-1", "LRScheduler.learning_rate: -1 (integer)"),
        ("LRScheduler.learning_rate=.nan", "LRScheduler.learning_rate: nan (number)"),
        ("Global.device=tpu", "Global.device: 'tpu' (string)"),
        ("Global.seed=[1", "broken YAML"),
        ("Optimizer.groups.tail.rate=constant", "Optimizer.groups.tail"),
        ("Global.output_dir=null", "Global.output_dir: null"),
        ("epochs", "an override is Section.key=value"),
        ("Global..epochs=3", "an override is Section.key=value"),
    ],
)
def test_refused_overrides_are_named(recipe: Path, override: str, words: str) -> None:
    message = refusal(recipe, override)
    assert words in message
    assert message.startswith(f"-o {override}")


def test_mistakes_in_a_file_are_told_with_their_line(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("batch_size: 64}\n  Eval", "batch: 64}\n  Eval"))
    assert refusal(recipe).startswith(f"{recipe}:9: DataLoader.Train.sampler.batch: unknown key 'batch'")


def test_broken_yaml_is_told_with_line_and_column(recipe: Path) -> None:
    recipe.write_text("Global:\n  epochs: 3\n seed: 1\n")
    assert refusal(recipe).startswith(f"{recipe}:3:2: broken YAML")


def test_a_key_given_twice_is_refused(recipe: Path) -> None:
    recipe.write_text(RECIPE + "Loss: {name: NTXent}\n")
    assert "key 'Loss' is there twice" in refusal(recipe)


def test_code_in_yaml_is_refused(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(f"Global: !!python/object/apply:os.system ['touch {tmp_path}/ran']\n")
    assert "broken YAML" in refusal(recipe)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["", "[1, 2]", "3"])
def test_a_recipe_is_a_mapping(recipe: Path, text: str) -> None:
    recipe.write_text(text)
    assert "a recipe is a mapping of sections" in refusal(recipe)


def test_a_missing_section_is_named(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("Loss: {name: NegativeCosine}\n", ""))
    assert "Loss: this section is needed" in refusal(recipe)


def test_a_missing_file_suggests_its_neighbours(recipe: Path) -> None:
    assert "did you mean" in refusal(recipe.with_name("recip.yaml"))
    assert "no such folder" in refusal(recipe.parent / "nowhere" / "recipe.yaml")


class TestBase:
    def child(self, recipe: Path, text: str) -> Path:
        path = recipe.with_name("child.yaml")
        path.write_text(text)
        return path

    def load(self, recipe: Path, text: str) -> Config:
        return load_config(self.child(recipe, "_base_: recipe.yaml\n" + text))

    def test_keys_are_merged(self, recipe: Path) -> None:
        config = self.load(recipe, "Global: {epochs: 9}\nModel: {backbone: {width: 4}}\n")
        assert (config.Global.epochs, config.Global.output_dir) == (9, "output/x")
        assert config.Model.backbone.arguments == {"width": 4}

    def test_another_component_replaces_the_node(self, recipe: Path) -> None:
        config = self.load(recipe, "Model: {backbone: {name: ResNet50}}\n")
        assert config.Model.backbone.arguments == {}

    def test_mistakes_name_the_file_that_holds_them(self, recipe: Path) -> None:
        child = self.child(recipe, "_base_: recipe.yaml\nGlobal:\n  epoks: 9\n")
        assert refusal(child).startswith(f"{child}:3: Global.epoks")
        recipe.write_text(RECIPE.replace("seed", "sed").replace("epochs: 3", "epochs: 0"))
        assert refusal(self.child(recipe, "_base_: recipe.yaml\n")).startswith(f"{recipe}:1: Global.epochs")

    def test_a_missing_base_and_a_circle_are_refused(self, recipe: Path) -> None:
        assert "no such file" in refusal(self.child(recipe, "_base_: nothing.yaml\n"))
        assert "leads back to itself" in refusal(self.child(recipe, "_base_: child.yaml\n"))
        assert "takes one file name" in refusal(self.child(recipe, "_base_: [recipe.yaml]\n"))
