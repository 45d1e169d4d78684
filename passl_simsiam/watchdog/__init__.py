"""Notice a rank that died or hangs, name it, and end the others. See `hub` and `client`.

Progress is told by `beat` and `phase`, from anywhere; they cost nothing, and do nothing where no watchdog runs.
"""

from passl_simsiam.watchdog.client import beat, current, open_hub, phase, start, stop

__all__ = ["beat", "current", "open_hub", "phase", "start", "stop"]
