"""The report of a run, made again from its folder: after other scores were taken of it, or where it never ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from passl_simsiam import build
from passl_simsiam.checkpoint import io
from passl_simsiam.checkpoint.weights import apply_weights
from passl_simsiam.config import Config
from passl_simsiam.errors import UserError
from passl_simsiam.log import messages_into
from passl_simsiam.tasks.classify import Validation, open_validation
from passl_simsiam.tasks.html_report import write_html
from passl_simsiam.tasks.monitor import open_monitor
from passl_simsiam.tasks.report import report_classification, report_pretraining
from passl_simsiam.tasks.session import Session, open_data, open_session


def report_again(config: Config, environment: Mapping[str, str]) -> Path:
    """Make report/ of the run's latest checkpoint, and return the path of its page.

    Where the run's images are gone, the page shows the report that the run ended with.

    Args:
        config: the run's recipe, with the run's folder as Global.output_dir.

    Raises:
        UserError: no checkpoint, or neither images nor an earlier report.
    """
    run = Path(config.Global.output_dir)
    with open_session(config, environment, writes=False) as session, messages_into(session.log):
        try:
            _report(session)
        except UserError as error:
            if not (run / "report/report.json").is_file():
                raise
            session.log.warn(f"{error}; the page shows the report that is there")
    return write_html(run)


def _report(session: Session) -> None:
    config = session.config
    train = open_data(session, config.DataLoader.Train, "DataLoader.Train")
    model = build.model(config, train.dataset, train.transform.size)
    checkpoint = io.load(io.find(session.folder, "latest", session.log.warn))
    apply_weights(model, checkpoint.model, source=str(checkpoint.path))
    if config.Global.task == "pretrain":
        report_pretraining(session, model, train, open_monitor(session, model.backbone, train))
    else:
        validation = Validation(session, model, open_validation(session))
        validation.metrics()
        report_classification(session, model, train, validation)
