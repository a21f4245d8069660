"""A first look at a file in a process of its own, `python -m client.watch.looking FILE`: what a
hostile one does to FFmpeg it does to that process, and not to the watcher, again at every start."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from pathlib import Path

from shared.errors import DualfaceError, ErrorCode, PermanentError
from shared.settings import SourceLimits

START_S = 30.0


async def look(path: Path) -> DualfaceError | None:
    """Why the service would not take the file; None when it probably would."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __spec__.name, path),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the watcher alone
    )
    try:
        async with asyncio.timeout(START_S + SourceLimits.load().read_s):
            said, _ = await process.communicate()
    except TimeoutError:
        return PermanentError(
            ErrorCode.SOURCE_UNREADABLE, f"{path.name} could not be looked through in time."
        )
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    try:
        found = json.loads(said)
        return PermanentError(ErrorCode(found["code"]), found["message"]) if found else None
    except (ValueError, KeyError, TypeError):
        return PermanentError(
            ErrorCode.SOURCE_UNREADABLE, f"{path.name} ends the program that looks at it."
        )


def main(path: Path) -> None:
    """Print what `look` reads."""
    from shared.media.probe import probe  # FFmpeg: in this process only

    found: dict[str, str] = {}
    try:
        probe(path, "mp4")
    except DualfaceError as error:
        found = {"code": error.code.value, "message": error.message}
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
