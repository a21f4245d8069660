"""Doubles have no name that the vendors' packages lack."""

from __future__ import annotations

import ast
import importlib
import os

import pytest

from tests.doubles import SITE


def names(package: str) -> list[str]:
    """`__all__` of the double."""
    tree = ast.parse((SITE.joinpath(*package.split(".")) / "__init__.py").read_text())
    assigned = (node for node in tree.body if isinstance(node, ast.Assign))
    return next(
        list(ast.literal_eval(node.value))
        for node in assigned
        if [target.id for target in node.targets if isinstance(target, ast.Name)] == ["__all__"]
    )


@pytest.mark.parametrize("package", ["cupy", "cupy.cuda", "PyNvVideoCodec"])
def test_a_package_has_every_name_of_its_double(vendor: str, package: str) -> None:
    try:
        module = importlib.import_module(package)
    except (ImportError, RuntimeError) as error:  # the second: there is no driver
        if vendor == "double" or os.environ.get("REQUIRE_GPU") == "1":
            raise
        pytest.skip(f"{package} can't be imported ({str(error).splitlines()[0]})")
    assert [name for name in names(package) if not hasattr(module, name)] == []
