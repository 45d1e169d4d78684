"""The model card of a run, gathered from its folder: after training, and again whenever a score is added."""

from __future__ import annotations

import json
from pathlib import Path

from passl_simsiam.checkpoint import io
from passl_simsiam.errors import UserError
from passl_simsiam.evaluation import scorecard
from passl_simsiam.evaluation.model_card import CARD, Facts, write_model_card
from passl_simsiam.log import RunLog, read_metrics


def update_card(run: Path, log: RunLog) -> None:
    """Write README.md of the run in folder `run`, of its best checkpoint, else its latest, and say so.

    A run without a checkpoint gets none; neither does one whose README.md the user wrote. What cannot be read or
    written is a warning: a run is not lost for want of its card.
    """
    folder = io.pointed(run / io.FOLDER, "best") or io.pointed(run / io.FOLDER, "latest")
    if folder is None:
        return
    try:
        state = json.loads((folder / io.STATE).read_text(encoding="utf-8"))
        manifest = json.loads((folder / io.MANIFEST).read_text(encoding="utf-8"))
        records = run / "metrics.jsonl"
        facts = Facts(
            name=str(run),
            config=state["config"],
            state=state,
            checkpoint=(folder.name, manifest["files"][io.MODEL]["sha256"]),
            records=read_metrics(records) if records.exists() else (),
            entries=scorecard.read(run),
        )
        if path := write_model_card(run, facts):
            log.info(f"model card: {path}")
        else:
            log.info(f"{run / CARD} is yours and stays as it is")
    except (OSError, ValueError, KeyError, UserError) as error:
        log.warn(f"no model card of this run: {type(error).__name__}: {error}")
