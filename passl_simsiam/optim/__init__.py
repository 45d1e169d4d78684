"""Parameter groups, optimizers and schedules. Importing the package registers them: one line a component file."""

from passl_simsiam.optim import groups, larc, momentum, schedules

__all__ = ["groups", "larc", "momentum", "schedules"]
