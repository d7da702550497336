"""The notebooks hold no outputs, and run from start to end in an empty folder."""

import json
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

NOTEBOOKS = sorted(Path(__file__).parent.glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_no_outputs_are_committed(path: Path) -> None:
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_notebook_runs(
    path: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient = pytest.importorskip("nbclient", reason="the extra `notebook`")
    nbformat = pytest.importorskip("nbformat", reason="the extra `notebook`")
    (tmp_path / "data").symlink_to(data_dir)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    began = monotonic()
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=120, resources=resources).execute()
    print(f"{path.name} took {monotonic() - began:.0f} s.")
    assert monotonic() - began < 120
    outputs: list[dict[str, Any]] = [
        output for cell in notebook.cells for output in cell.get("outputs", [])
    ]
    shown = [output["data"] for output in outputs if "data" in output]
    assert len([data for data in shown if "image/png" in data]) == 4
    assert len([data for data in shown if "<iframe" in data.get("text/html", "")]) == 1
    text = "".join(output["text"] for output in outputs if output.get("name") == "stdout")
    assert "logits (3, 10)" in text
    assert "669,706" in text
    assert text.count("Trouser, ") == 2
    errors = "".join(output["text"] for output in outputs if output.get("name") == "stderr")
    assert "Warning" not in errors
