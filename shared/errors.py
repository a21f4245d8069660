"""The errors of the system: two kinds, because a stage can do only two things about one.

    DualfaceError(code, message)
    ├── PermanentError      the job's fault: repeating cannot help, the job ends with this code
    │   └── StoreRefusedError  nobody's job's fault: the object store is set up wrong
    ├── TemporaryError      the world's fault: repeated after `delay_s`, a bounded number of times
    │   └── DeferredError   nobody's fault: what it needs is in use; repeated, and not counted
    │       ├── RedisAwayError  Redis does not answer, or can't write
    │       ├── StoreAwayError  the object store does not answer
    │       └── ArenaAwayError  the arena was withdrawn, or is not announced yet
    ├── EngineError         an engine can't do a piece of work; the next one of its stage does it
    │   └── DeviceLostError  no engine of this process can: it ends, another one does the work
    └── WorkOverError       nobody's fault: the job ended while somebody worked on it

`code` is stable and meant for programs, `message` is one sentence for people that names the
problem and what to do. Both are positional, so the errors survive pickling between a worker's
child and its parent.
"""

from __future__ import annotations

from enum import StrEnum


class ErrorCode(StrEnum):
    """Stable codes; never renamed, only added to."""

    SOURCE_MISSING = "source_missing"
    SOURCE_CHANGED = "source_changed"
    SOURCE_UNREADABLE = "source_unreadable"
    SOURCE_EMPTY = "source_empty"
    SOURCE_FORBIDDEN = "source_forbidden"
    SOURCE_UNREACHABLE = "source_unreachable"
    NOT_A_VIDEO = "not_a_video"
    NO_VIDEO_STREAM = "no_video_stream"
    UNSUPPORTED_CODEC = "unsupported_codec"
    ENCRYPTED = "encrypted"
    TOO_LARGE = "too_large"
    TOO_DAMAGED = "too_damaged"
    OUTPUT_UNWRITABLE = "output_unwritable"
    BAD_OPTION = "bad_option"
    NO_SPACE = "no_space"
    OUT_OF_MEMORY = "out_of_memory"
    MODEL_MISSING = "model_missing"
    MODEL_DAMAGED = "model_damaged"
    STALE = "stale"
    BUSY = "busy"
    STAGE_FAILED = "stage_failed"
    FRAMES_FAILED = "frames_failed"
    CHECK_FAILED = "check_failed"
    CANCELLED = "cancelled"
    NOT_FOUND = "not_found"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    CONFLICT = "conflict"
    OVER_QUOTA = "over_quota"
    TOO_MANY_REQUESTS = "too_many_requests"
    STORE_REFUSED = "store_refused"
    STACK_FAILED = "stack_failed"
    INTERNAL = "internal"


class DualfaceError(Exception):
    """Base of all errors raised on purpose."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(code, message)
        self.code = ErrorCode(code)
        self.message = message

    def __str__(self) -> str:
        return self.message


class PermanentError(DualfaceError):
    """Repeating cannot help; ends the job with `code`."""


class StoreRefusedError(PermanentError):
    """The object store answers and says no: its settings are wrong, or its rights. Not the job's
    fault: workers keep its work until somebody has mended them."""


class SpentError(PermanentError):
    """A piece of work was taken up as often as is allowed; code and message are of its last
    failure, STAGE_FAILED when the process ended each time."""


class WorkOverError(DualfaceError):
    """The job ended, or was cancelled, while a stage worked on it: put everything down."""

    def __init__(self, job: str) -> None:
        super().__init__(ErrorCode.STALE, f"The job {job} has ended.")
        self.args = (job,)


class TemporaryError(DualfaceError):
    """May pass by itself; the work is repeated after `delay_s` seconds, at most a few times."""

    def __init__(self, code: ErrorCode, message: str, delay_s: float = 1.0) -> None:
        super().__init__(code, message)
        self.args = (code, message, delay_s)
        self.delay_s = delay_s


class DeferredError(TemporaryError):
    """Nothing failed: what the work needs is in use. It is given back and uses up no try."""


class RedisAwayError(DeferredError):
    """Redis did not answer, or can't write, for as long as a call is repeated; as to every job."""


class StoreAwayError(DeferredError):
    """The object store did not answer for as long as was to be waited, as to every other job."""


class ArenaAwayError(DeferredError):
    """Nobody owns the arena (yet), and the coordinator knows: it sends nothing there meanwhile."""


class EngineBusyError(DeferredError):
    """The driver opens no further session: other programs hold some that nobody here can count."""


class OutOfMemoryError(TemporaryError):
    """The device of an engine has not memory enough; less at a time, or another engine, may do."""

    def __init__(self, what: str) -> None:
        super().__init__(ErrorCode.OUT_OF_MEMORY, f"The device is out of memory: {what}", 1.0)
        self.args = (what,)


class EngineError(DualfaceError):
    """An engine is not there, can't do this piece of work, or broke while at it: the next engine of
    the stage does it at once, from its beginning. `able` False: it can't (its package is missing,
    or the device lacks something); True: it should have been able to."""

    def __init__(self, message: str, able: bool = False) -> None:
        super().__init__(ErrorCode.STAGE_FAILED, message)
        self.args = (message, able)
        self.able = able


class DeviceLostError(EngineError):
    """The process's CUDA context is beyond use. The process has to end; what it worked on is found
    and done again in another, by the engine whose turn it is then."""

    def __init__(self, message: str) -> None:
        super().__init__(message, True)
        self.args = (message,)
