"""Commands and programs of README and configs/README, run in order, and the facts they state."""

import doctest
import logging
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image
from support import REPOSITORY

from fashion_lightning.cli.main import main
from fashion_lightning.data import files
from fashion_lightning.seeds import read_summary

README, CONFIGS_README = (
    (REPOSITORY / name).read_text() for name in ("README.md", "configs/README.md")
)
CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))
RESULTS = sorted((REPOSITORY / "tests" / "benchmarks" / "results").glob("*.json"))
DOCUMENTS = [
    *("README.md", "configs/README.md", "tests/benchmarks/README.md"),
    *(".github/CHANGELOG.md", ".github/CONTRIBUTING.md"),
]
WITH_EXAMPLES = [
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    for path in sorted((REPOSITORY / "fashion_lightning").rglob("*.py"))
    if ">>>" in path.read_text()
]
SHORT = (
    *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"),
    *("--trainer.log_every_n_steps", "1", "--trainer.limit_val_batches", "1"),
    *("--trainer.limit_test_batches", "1"),
)


@pytest.mark.filterwarnings("default")  # Lightning has advice for small examples.
def test_every_command_and_every_program_runs(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage in ("TRAIN", "VAL"):  # Lightning's way to set what a program leaves open
        monkeypatch.setenv(f"PL_TRAINER_LIMIT_{stage}_BATCHES", "5")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    (tmp_path / "data").symlink_to(data_dir)
    (tmp_path / "photos").mkdir()
    image = Image.fromarray(255 - files.load(data_dir, train=False)[0][0].numpy())
    image.resize((300, 300)).save(tmp_path / "photos" / "boot.jpg")
    commands, programs = 0, 0
    shown = README + CONFIGS_README
    for language, block in re.findall(r"```(bash|python)\n(.*?)```", shown, flags=re.DOTALL):
        if language == "python":
            exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
            programs += 1
            continue
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            if "fashion-lightning" not in words:
                continue  # Installing this package and running this test has worked already.
            arguments = words[words.index("fashion-lightning") + 1 :]
            if arguments[0] == "fit":
                arguments += SHORT  # After the config file, which would win otherwise.
            if "--print_config" in arguments:
                with pytest.raises(SystemExit, match="0"):
                    main(arguments)
            else:
                main(arguments)
            commands += 1
    assert (commands, programs) == (14, 4)
    assert (tmp_path / "lightning_logs/version_0/predictions.csv").is_file()
    logging.getLogger("lightning.pytorch").setLevel(logging.INFO)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_in_the_docstrings(
    name: str, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(data_dir)
    results = doctest.testmod(import_module(name))
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_the_results_are_those_of_the_config_files(config: Path) -> None:
    header = config.read_text().split("seed_everything")[0]
    accuracy = re.search(r"\d\d\.\d+ % ± \d\.\d+", header)
    expected = accuracy[0] if accuracy else "not measured"
    assert expected in header
    for document in (README, CONFIGS_README):
        rows = re.findall(rf"^\| `{config.name}` \|.*$", document, re.MULTILINE)
        assert rows or (document == README and not accuracy)
        assert all(expected in row for row in rows)


@pytest.mark.parametrize("summary", RESULTS, ids=lambda path: path.stem)
def test_a_result_is_that_of_its_summary(summary: Path) -> None:
    accuracy = read_summary(summary)["metrics"]["test_acc"]
    stated = f"{100 * accuracy['mean']:.2f} % ± {100 * accuracy['std']:.2f}"
    assert stated in (REPOSITORY / "configs" / f"{summary.stem}.yaml").read_text()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files(name: str) -> None:
    document = REPOSITORY / name
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_readme_names_every_file_and_folder_of_the_package() -> None:
    package = REPOSITORY / "fashion_lightning"
    parts = {f"{path.name}/" if path.is_dir() else path.name for path in package.iterdir()}
    shown = set(re.findall(r"`([a-z_]+(?:/|\.py))`", README.split("## The package")[1]))
    assert shown == {name for name in parts if not name.startswith("_") and name != "py.typed"}
