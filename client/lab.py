"""Asking a module of `services.infer.lab`, by its name: the client imports no service."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TypeVar

from shared.errors import DualfaceError, ErrorCode, PermanentError
from shared.jobs import Model
from shared.models.lab import REFUSED, Refusal
from shared.processes import die_with_parent

Answer = TypeVar("Answer", bound=Model)


def ask(module: str, request: Model, answer: type[Answer], patience_s: float | None) -> Answer:
    """What the module answers, run in a process of its own, of which nothing stays.

    Blocks for `patience_s` at most; None: for as long as it takes. Raises PermanentError with what
    it refuses, DualfaceError STAGE_FAILED when it ends without an answer, or not in time.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # a session of its own: Ctrl-C at the terminal reaches us alone
        start_new_session=True,
        preexec_fn=_end_with_us,
    )
    try:
        out, errors = process.communicate(request.model_dump_json().encode(), patience_s)
    except subprocess.TimeoutExpired as error:
        raise DualfaceError(
            ErrorCode.STAGE_FAILED, f"it did not end within {patience_s:.0f} s"
        ) from error
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    if process.returncode == REFUSED:
        refusal = Refusal.model_validate_json(out)
        raise PermanentError(refusal.code, refusal.message)
    if process.returncode != 0:
        raise DualfaceError(ErrorCode.STAGE_FAILED, _last_words(process.returncode, errors))
    return answer.model_validate_json(out)


def _end_with_us() -> None:
    die_with_parent(signal.SIGKILL)


def _last_words(code: int, errors: bytes) -> str:
    lines = errors.decode(errors="replace").strip().splitlines()
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return f"its process {how}" + (f" ({lines[-1][:200]})" if lines else "")
