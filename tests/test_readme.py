"""What the README tells people to do, done in its order, in one folder."""

import doctest
import logging
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image
from support import REPOSITORY

from fashion_lightning import datamodule, export, module, network, plotting, seeds
from fashion_lightning.cli.main import main
from fashion_lightning.data import files
from fashion_lightning.photos import conversion
from fashion_lightning.report import page
from fashion_lightning.training import metrics

README = (REPOSITORY / "README.md").read_text()
SHORT = (
    *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"),
    *("--trainer.log_every_n_steps", "1", "--trainer.limit_val_batches", "1"),
    *("--trainer.limit_test_batches", "1"),
)


@pytest.mark.filterwarnings("default")  # Lightning has advice for small examples.
def test_every_command_and_every_program_runs(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    (tmp_path / "data").symlink_to(data_dir)
    (tmp_path / "photos").mkdir()
    image = Image.fromarray(255 - files.load(data_dir, train=False)[0][0].numpy())
    image.resize((300, 300)).save(tmp_path / "photos" / "boot.jpg")
    commands, programs = 0, 0
    for language, block in re.findall(r"```(bash|python)\n(.*?)```", README, flags=re.DOTALL):
        if language == "python":
            exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
            programs += 1
            continue
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            if "fashion-lightning" not in words:
                continue  # pip and pytest: that is how this test came to run
            arguments = words[words.index("fashion-lightning") + 1 :]
            if arguments[0] == "fit":
                arguments += SHORT  # After the config file, which would win otherwise.
            if "--print_config" in arguments:
                with pytest.raises(SystemExit, match="0"):
                    main(arguments)
            else:
                main(arguments)
            commands += 1
    assert (commands, programs) == (14, 9)
    assert (tmp_path / "lightning_logs/version_0/predictions.csv").is_file()
    logging.getLogger("lightning.pytorch").setLevel(logging.INFO)


@pytest.mark.parametrize(
    "part", [network, module, datamodule, export, conversion, plotting, page, seeds, metrics]
)
def test_the_examples_in_the_docstrings(
    part: ModuleType, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(data_dir)
    results = doctest.testmod(part)
    assert results.attempted > 0
    assert results.failed == 0


def test_the_results_are_those_of_the_config_files() -> None:
    for config in (REPOSITORY / "configs").glob("*.yaml"):
        header = config.read_text().split("seed_everything")[0]
        accuracy = re.search(r"(\d\d\.\d+) %", header)
        said = f"{accuracy[1]} %" if accuracy else "not measured"
        assert said in header
        row = re.search(rf"^\| `{config.name}` \|.*$", README, re.MULTILINE)
        assert row, f"the README has no row for {config.name}"
        assert said in row[0]
