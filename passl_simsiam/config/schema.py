"""What a recipe may say. Sections and keys are named in the PASSL tradition.

Every section is frozen and refuses keys it does not know. A component node `{name: ..., argument: ...}` keeps its
arguments as they are; `passl_simsiam.build` checks them against the constructor that the registry holds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Component(Section):
    """A registered class or function by name (or `package.module:Class`), and its arguments beside it."""

    model_config = ConfigDict(extra="allow")

    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class GlobalSection(Section):
    """The run itself."""

    task: Literal["pretrain", "linear_probe", "finetune"] = "pretrain"
    output_dir: str
    epochs: PositiveInt
    max_steps: PositiveInt | None = Field(None, description="stop after so many steps in all; schedules do not change")
    seed: NonNegativeInt = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|gpu|gpu:\d+)$")] = "auto"
    sync_batch_norm: bool = Field(True, description="with several processes, batch norm over all their batches")
    threads: PositiveInt | None = Field(None, description="CPU threads; null: all usable cores")
    accumulate_steps: PositiveInt = Field(1, description="forward and backward passes that make one optimizer step")
    print_batch_step: PositiveInt = Field(10, description="steps from one record to the next")
    save_every_epochs: PositiveInt = 1
    save_every_steps: PositiveInt | None = None
    save_every_minutes: PositiveFloat | None = None
    on_save_error: Literal["warn", "stop"] = Field("warn", description="a save that fails: go on, or end the run")
    keep_last: PositiveInt = Field(2, description="checkpoints kept beside `latest` and `best`")
    checkpoint: str | None = Field(
        None, description="a checkpoint to resume from: `latest`, a path, or `auto`: the latest if there is one"
    )
    hang_timeout: PositiveFloat = Field(600.0, description="seconds without progress until a process counts as hung")
    max_skipped_steps: PositiveInt = Field(10, description="steps in a row without finite gradients that end the run")
    pretrained_model: str | None = Field(None, description="weights for the backbone: a path, with or without suffix")


class ModelSection(Section):
    """The method and its parts; which of neck and head are needed is the method's to say."""

    name: str
    backbone: Component
    neck: Component | None = None
    head: Component | None = None


class Group(Section):
    """How the rate of one part of the model (backbone, neck, head) follows from the schedule's."""

    rate: Literal["schedule", "constant"] = "schedule"
    multiplier: PositiveFloat = 1.0


class OptimizerSection(Component):
    groups: dict[Literal["backbone", "neck", "head"], Group] | None = None


class LRSchedulerSection(Component):
    """The rate; at a global batch of b it is learning_rate * b / reference_batch (null: not scaled)."""

    learning_rate: NonNegativeFloat
    reference_batch: PositiveInt | None = 256


class Share(Section):
    """The same share of each class, drawn by the seed; a smaller one is part of a larger one."""

    fraction: Annotated[float, Field(gt=0, le=1)]
    seed: NonNegativeInt = 0


class Dataset(Component):
    transform: Component
    subset: Share | str | None = Field(None, description="{fraction, seed}, or a file that names images, a line each")


class Sampler(Section):
    """Batch sizes are global: over all ranks and accumulation steps."""

    batch_size: PositiveInt
    shuffle: bool = False
    drop_last: bool = False


class Workers(Section):
    num_workers: NonNegativeInt = Field(0, description="processes a rank; 0 loads in the training process")
    timeout: PositiveFloat = Field(120.0, description="seconds until a silent worker counts as hung")
    max_restarts: NonNegativeInt = Field(20, description="lost workers replaced within an hour; one more ends the run")
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = Field(0.01, description="share of unreadable images borne")


class Split(Section):
    dataset: Dataset
    sampler: Sampler
    loader: Workers = Workers()


class DataLoaderSection(Section):
    """What Eval.dataset does not say (its name, root, ...; never transform or subset) it takes from Train.dataset."""

    Train: Split
    Eval: Split | None = None


class KNN(Section):
    """The kNN monitor: cosine similarity of backbone features, votes weighted by exp(similarity / temperature)."""

    every_epochs: PositiveInt = 1
    k: PositiveInt = 200
    temperature: PositiveFloat = 0.1


class FewLabel(Section):
    """A table at the end of pretraining: a linear classifier on the features of so many labelled images a class."""

    labels_per_class: tuple[PositiveInt, ...] = (1, 5, 10)
    draws: PositiveInt = 10


class BestBy(Section):
    """What chooses the checkpoint `best`, and when waiting for a better one ends training."""

    metric: str | None = Field(None, description="such as health/rank; null: the top-1, where there are labels")
    mode: Literal["max", "min"] | None = Field(None, description="null: min for losses, max for all else")
    patience: PositiveInt | None = Field(None, description="epochs without a better value that end training")


class EvaluationSection(Section):
    every_epochs: PositiveInt = Field(1, description="epochs from one top-1 of a probe or fine-tuning to the next")
    knn: KNN | None = KNN()
    few_label: FewLabel | None = None
    best_by: BestBy = BestBy()
    baselines: bool = Field(False, description="also score random weights and raw pixels; for small data sets")
    pictures: bool = Field(True, description="at the end of a run, pictures of the features of some images")


class AMPSection(Section):
    """Mixed precision, on GPUs only: which operations of the forward pass are cast, and to what."""

    level: Literal["O1", "O2"] = "O1"
    dtype: Literal["bfloat16", "float16"] = "bfloat16"


class FaultsSection(Section):
    """Faults made on purpose, to rehearse what a run does about them."""

    nonfinite_step: NonNegativeInt = Field(description="the first step (from 0) whose loss becomes NaN")
    nonfinite_count: PositiveInt = Field(1, description="how many of them")


class HealthSection(Section):
    """Signs of collapse, recorded during pretraining, and the guard that acts on them."""

    every: PositiveInt = Field(50, description="steps from one report to the next; an epoch's last step reports too")
    sample: Annotated[int, Field(ge=2)] = Field(512, description="images a rank that spread and ranks are taken of")
    guard: Literal["off", "warn", "stop"] = "stop"
    std_below: NonNegativeFloat = Field(0.25, description="collapsed: z/|z| spreads less than this share of 1/sqrt(d)")
    rank_below: NonNegativeFloat = Field(3.0, description="collapsed: an effective rank of z below this")
    reports: PositiveInt = Field(3, description="collapsed reports in a row until the warning, then until the stop")
    grace_steps: NonNegativeInt = Field(100, description="reports up to this step do not count as collapsed")


class Config(Section):
    """A whole recipe."""

    Global: GlobalSection
    Model: ModelSection
    Loss: Component
    Optimizer: OptimizerSection
    LRScheduler: LRSchedulerSection
    DataLoader: DataLoaderSection
    Evaluation: EvaluationSection = EvaluationSection()
    Health: HealthSection = HealthSection()
    AMP: AMPSection | None = None
    Faults: FaultsSection | None = None
