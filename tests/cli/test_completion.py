"""Bash completes commands, options and file names by the script that the command prints."""

import subprocess
from pathlib import Path

import pytest

from fashion_lightning.cli.main import main

# What bash does when somebody types these words and presses the tab key.
_PRESS_TAB = """
source completion.bash
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
$(complete -p fashion-lightning | grep -o '_shtab\\w*') "$1" "${@: -1}" "${@: -2:1}"
echo "${COMPREPLY[@]}"
"""


def test_bash_completes_commands_options_and_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--print_completion", "bash"])
    assert stop.value.code == 0
    (tmp_path / "completion.bash").write_text(capsys.readouterr().out)
    (tmp_path / "default.yaml").touch()

    def completed(*words: str) -> list[str]:
        command = ["bash", "--norc", "-c", _PRESS_TAB, "bash", "fashion-lightning", *words]
        return subprocess.check_output(command, cwd=tmp_path, text=True).split()

    assert completed("") == ["fit", "validate", "test", "predict", "export", "demo"]
    assert completed("fit", "--model.opt") == ["--model.optimizer"]
    assert completed("predict", "--data.im") == ["--data.images"]
    assert completed("demo", "--po") == ["--port"]
    assert completed("fit", "--config", "def") == ["default.yaml"]
