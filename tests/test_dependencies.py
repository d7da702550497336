"""pyproject.toml declares what the package imports."""

import ast
import re
import sys

import pytest
from support import REPOSITORY

NAMES = {"PIL": "pillow", "yaml": "pyyaml"}  # Packages that are not called as they are imported.


def test_every_import_is_declared_and_every_dependency_imported() -> None:
    tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    base = {re.split(r"[\[><=]", line)[0] for line in project["dependencies"]}
    optional = {
        re.split(r"[\[><=]", line)[0]
        for extra in extras.keys() - {"test", "dev"}
        for line in extras[extra]
    }
    imported = set()
    for path in (REPOSITORY / "fashion_lightning").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
    imported -= {*sys.stdlib_module_names, "fashion_lightning"}
    packages = {NAMES.get(name, name.replace("_", "-")) for name in imported}
    assert packages <= base | optional
    assert base - packages <= {"torchvision"}  # pyproject.toml states why it is there.
