"""The one exception for what a user can put right, and the words that help them do it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in a recipe, an argument or an input file.

    Commands print its message as one line on stderr and exit with code 2. Raise it with everything the user needs:
    the bad value, where it came from, the choices, and what was probably meant.
    """


class TrainingError(Exception):
    """Training cannot sensibly go on (a loss that is not finite). Commands say so in one line and exit with code 1."""


class Interrupted(Exception):
    """Training was asked to stop and has saved where it stands. Commands say so and exit with code 75 ("try again")."""


def suggest(bad: str, choices: Iterable[str]) -> str:
    """The tail of an error message: the likely intent, if any choice is close to `bad`, and all the choices."""
    names = sorted(map(str, choices))
    if not names:
        return "there are no choices"
    folded = {name.lower(): name for name in names}
    close = difflib.get_close_matches(str(bad).lower(), folded, n=1, cutoff=0.5)
    intent = f"did you mean {folded[close[0]]!r}? " if close else ""
    return f"{intent}choices: {', '.join(names)}"
