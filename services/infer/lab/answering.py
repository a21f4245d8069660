"""The edge of the lab's modules: JSON in, JSON out, errors as a code and a sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError

from shared.errors import DualfaceError, ErrorCode
from shared.jobs import Model
from shared.models.lab import REFUSED, Refusal

Request = TypeVar("Request", bound=Model)


def answer(kind: type[Request], work: Callable[[Request], Model]) -> int:
    """Do `work` with the request on standard input; the exit code."""
    try:
        made: Model = work(kind.model_validate_json(sys.stdin.buffer.read()))
        code = 0
    except ValidationError as error:
        made, code = Refusal(code=ErrorCode.BAD_OPTION, message=f"no {kind.__name__}: {error}"), 2
    except DualfaceError as error:
        made, code = Refusal(code=error.code, message=error.message), REFUSED
    print(made.model_dump_json())
    return code
