"""What a run says and remembers: console, log.txt, metrics.jsonl, metrics.csv and VisualDL behind one interface."""

from passl_simsiam.log.bridge import messages_into
from passl_simsiam.log.files import read_metrics
from passl_simsiam.log.progress import Progress
from passl_simsiam.log.runlog import RunLog

__all__ = ["Progress", "RunLog", "messages_into", "read_metrics"]
