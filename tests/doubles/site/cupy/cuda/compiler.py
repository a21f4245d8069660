"""What CuPy raises for a source that does not compile."""

from __future__ import annotations


class CompileException(Exception):  # noqa: N818
    def __init__(self, msg: str) -> None:
        super().__init__(msg)
        self.msg = msg

    def __str__(self) -> str:
        return self.msg
