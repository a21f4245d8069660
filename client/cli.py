"""The `dualface` command: what holds for all its parts, whichever of them runs."""

from __future__ import annotations

import io
import signal
import sys

from client.warm import is_starting, warm_up

EXIT_FAILED = 1
EXIT_USAGE = 2


def main() -> None:
    """Entry point: every expected error is one line on standard error, never a traceback."""
    # Until all is imported, and again when all is done, Ctrl-C just ends the process.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text
    if is_starting(sys.argv[1:]):
        warm_up()
    from client.app import app
    from client.run import InterruptedRunError, interruptible
    from shared.errors import DualfaceError, PermanentError

    if sys.argv[1:2] != ["run"]:
        from client.remote_app import add_remote  # they would make the start of `run` 10 ms longer

        add_remote(app)
    try:
        with interruptible():
            app()
    except InterruptedRunError as error:
        _say(error.message)
        sys.exit(128 + error.number)
    except PermanentError as error:
        _say(error.message)
        sys.exit(EXIT_USAGE)
    except DualfaceError as error:
        _say(error.message)
        sys.exit(EXIT_FAILED)
    except Exception as error:
        from shared.redisdb import RedisError, explained, may_pass

        if not (isinstance(error, RedisError) and may_pass(error)):
            raise
        _say(explained(error).message)
        sys.exit(EXIT_FAILED)


def _say(message: str) -> None:
    print(f"dualface: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
