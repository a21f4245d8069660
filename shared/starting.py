"""How every process of the system begins when it is started by itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from shared.errors import PermanentError
from shared.settings import Settings

WRONG = 2
"""Exit code: started wrong, so starting it again helps nobody."""


def start(main: Callable[[Settings], int]) -> NoReturn:
    """Run `main` with the settings of this machine, and exit with its code; with WRONG and one
    sentence on standard error when a setting is wrong."""
    try:
        settings = Settings.load()
    except PermanentError as error:
        print(error.message, file=sys.stderr)
        sys.exit(WRONG)
    sys.exit(main(settings))
