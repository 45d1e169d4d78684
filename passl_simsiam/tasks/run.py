"""From a checked recipe to the task that it names."""

from __future__ import annotations

from collections.abc import Mapping

from passl_simsiam.config import Config
from passl_simsiam.log import messages_into
from passl_simsiam.tasks import classify, dry, pretrain
from passl_simsiam.tasks.preflight import check_start, require
from passl_simsiam.tasks.scoring import Wanted, score
from passl_simsiam.tasks.session import open_session


def train(config: Config, environment: Mapping[str, str]) -> None:
    """Run Global.task. Raises UserError."""
    with open_session(config, environment, writes=True) as session, messages_into(session.log):
        require(session, check_start(session))
        if config.Global.task == "pretrain":
            pretrain.run(session)
        else:
            classify.run(session)


def dry_run(config: Config, environment: Mapping[str, str]) -> None:
    """Build everything, train one step in memory, and report; writes nothing. Raises UserError."""
    with open_session(config, environment, writes=False) as session, messages_into(session.log):
        prepare = pretrain.prepare if config.Global.task == "pretrain" else classify.prepare
        dry.report(prepare(session).training)


def evaluate(config: Config, environment: Mapping[str, str], wanted: Wanted | None) -> None:
    """Score a checkpoint of the recipe's run. Raises UserError.

    Args:
        wanted: what to score its features by; None for the task's own score: kNN of a pretraining, top-1 of the others.
    """
    with open_session(config, environment, writes=False) as session, messages_into(session.log):
        if wanted is None and config.Global.task != "pretrain":
            classify.evaluate(session)
        else:
            score(session, wanted or Wanted())
