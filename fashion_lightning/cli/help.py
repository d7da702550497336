"""What `--help` prints: one line per option that people change, and where to find the others."""

import re
import textwrap
from argparse import SUPPRESS
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

COMMANDS = {
    "fit": "Train a network, test its best weights, and write a report.",
    "validate": "Score a checkpoint on the validation images.",
    "test": "Score a checkpoint on the 10,000 test images, and write a report.",
    "predict": "Write a table of predictions for the test images, or for photographs.",
    "export": "Write a checkpoint as ONNX, torch.export, safetensors or the tutorial's model.pth.",
    "demo": "Serve a page in the browser that classifies photographs.",
}
_OVERVIEW = """\
usage: fashion-lightning COMMAND [--config FILE] [options]

Trains and applies networks that recognize the ten classes of FashionMNIST.

commands:
{commands}

options:
  COMMAND --help      options of a command
  COMMAND --help_all  all of its options, with types: also Lightning's
  --version           the version
  --print_completion  bash or zsh: a script with which the shell completes commands and options

examples:
  fashion-lightning fit --config configs/default.yaml
  fashion-lightning test --ckpt_path best
  fashion-lightning predict --ckpt_path pretrained:convnet --data.images photos
"""
# Options of Lightning's Trainer that people change, in words that hold for this command.
_TRAINER = {
    "max_epochs": "Epochs, an int >= 1; -1: no limit.",
    "max_steps": "Optimizer steps, an int >= 1; -1: no limit.",
    "max_time": "Longest time of training, as DD:HH:MM:SS.",
    "accelerator": "cpu, cuda, mps, or auto: the fastest that is there.",
    "devices": "Number of devices, an int >= 1, or auto.",
    "strategy": "How several devices share the work, such as ddp.",
    "precision": "32-true, bf16-mixed, 16-mixed, ... null: in fit bf16-mixed where it is fast.",
    "callbacks": "Class paths of callbacks, Lightning's or your own.",
    "logger": "Class path of a logger; false: no curves.",
    "accumulate_grad_batches": "Batches per optimizer step, an int >= 1.",
    "gradient_clip_val": "Largest norm of the gradients, >= 0.",
    "val_check_interval": "Validate after this fraction of an epoch, or this many batches.",
    "limit_train_batches": "Fraction of an epoch's batches, or their number.",
    "log_every_n_steps": "Steps between points of the curves, an int >= 0.",
    "enable_progress_bar": "Whether to draw a progress bar.",
    "default_root_dir": "Folder in which lightning_logs is made. null: this one.",
    "fast_dev_run": "Try one batch of each stage, and write nothing.",
}
_COMMON = {
    "config": "A YAML file of options. It may be given several times.",
    "print_config": "Print all options as YAML, and stop.",
    "seed_everything": "Source of all randomness, an int >= 0.",
    "optimizer": "Class path of another optimizer, with its options.",
    "lr_scheduler": "Class path of another schedule, together with `optimizer`.",
    "ckpt_path": "best or last of the newest run, pretrained:NAME, or a checkpoint file.",
    "weights_only": "false trusts the checkpoint, which may then run code.",
}
_HIDDEN = ("help_all", "verbose", "return_predictions", "trainer", "model", "data", "predictions")
# Shown for the other commands, too; what else there is of these groups matters to `fit`.
_ALWAYS = (
    *("model.network", "model.flip_averaging", "data.data_dir", "data.eval_batch_size"),
    *("data.val_size", "data.split_seed", "data.images", "data.num_workers"),
    *("trainer.accelerator", "trainer.devices", "trainer.strategy", "trainer.precision"),
    *("trainer.default_root_dir", "trainer.enable_progress_bar"),
)
_WIDTH, _COLUMN = 110, 34


def describe(command: str | None, actions: Iterable[Any]) -> str:
    """Return the help of a command, or of all of them.

    Args:
        command: Its name. None: the overview.
        actions: The options of the command's parser.
    """
    if command is None:
        lines = (f"  {name:<18}  {text}" for name, text in COMMANDS.items())
        return _OVERVIEW.format(commands="\n".join(lines))
    groups: dict[str, list[str]] = {"options": [], "model": [], "data": [], "trainer": []}
    actions = [action for action in actions if action.help != SUPPRESS]
    for action in actions:
        group, _, name = action.dest.rpartition(".")
        own = _TRAINER if group == "trainer" else {} if group else _COMMON
        text = own.get(name, "" if group == "trainer" else action.help or "")
        is_of_fit = group in ("model", "data", "trainer") or name in ("optimizer", "lr_scheduler")
        is_shown = command == "fit" or not is_of_fit or action.dest in _ALWAYS
        if text and is_shown and name not in ("help", *_HIDDEN) and action.dest != "data.preview":
            title = group if group in groups else "options"
            if group in ("", "predictions", *groups):
                groups[title] += _option(action, " ".join(text.replace("`", "").split()))
    blocks = [f"usage: fashion-lightning {command} [options]\n\n{COMMANDS[command]}"]
    blocks += ["\n".join([f"{title}:", *lines]) for title, lines in groups.items() if lines]
    if any("--help_all" in action.option_strings for action in actions):
        more = "All options, with types and Lightning's own"
        blocks.append(f"{more}: fashion-lightning {command} --help_all")
    return "\n\n".join(blocks) + "\n"


def _option(action: Any, text: str) -> list[str]:
    """Return an option's line, or two if its first sentence is long."""
    first, *others = re.split(r"(?<=\.) (?=[A-Z`\[])", text)
    default = "" if str(action.default).startswith("==") else f" [{_in_yaml(action.default)}]"
    for sentence in others:
        if len(first) + 1 + len(sentence) + len(default) <= _WIDTH - _COLUMN:
            first = f"{first} {sentence}"
    option = f"  {action.option_strings[-1].removesuffix('+')}"
    if len(option) >= _COLUMN:
        option += "  "
    return textwrap.wrap(
        first + default,
        _WIDTH,
        initial_indent=f"{option:<{_COLUMN}}",
        subsequent_indent=" " * _COLUMN,
    )


def _in_yaml(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def nearest(option: str, actions: Iterable[Any]) -> str | None:
    """Return the option that a misspelt one resembles most, or None."""
    known = [name for action in actions for name in action.option_strings]
    return next(iter(get_close_matches(option.partition("=")[0], known, n=1)), None)
