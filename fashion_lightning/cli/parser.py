"""The command's parser, which refuses an argument or a config file in one sentence."""

import re
from argparse import SUPPRESS, Action
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace, get_loader, set_loader
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser
from lightning_utilities.core.enums import StrEnum
from typing_extensions import override

from fashion_lightning.cli.help import COMMANDS, describe, nearest

_load = get_loader("yaml")
_NAMES = {
    "float": "a number",
    "int": "an int",
    "bool": "true or false",
    "str": "a string",
    "Sequence": "a list",
    "Iterable": "a list",
    "dot import path string": "a class path",
}
# In jsonargparse's paragraphs: a type that was tried, and lines that add nothing to it.
_TYPE = re.compile(
    r"^\W*(?:Expected an?|Import path does not correspond to an?) (.*?)(?:: .*|\. Got value.*)?$",
    re.MULTILINE,
)
_NOISE = re.compile(
    r"\W*(?:Parser key|Expected an? |Import path|Does not validate|Subtypes|Errors|Given value|$)"
)


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that occurs twice, of which YAML loaders ignore the first."""

    @override
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys: set[Any] = set()
        for key, _ in node.value:
            if key.value in keys:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"Expected `{key.value}` once, but line {line} repeats it.")
            keys.add(key.value)
        return node


def load_yaml(text: str) -> Any:
    """Load YAML like jsonargparse, but refuse a key that occurs twice."""
    value = _load(text)
    if isinstance(value, dict):
        yaml.compose(text, Loader=_UniqueKeys)
    return value


def named_classes(args: Sequence[str]) -> dict[str, type]:
    """Return the base classes of ``model`` and ``data`` where a config file has a `class_path`.

    Options of such a part are its own `init_args`; `fit` does without what needs a classifier.
    """
    bases: dict[str, type] = {"model": LightningModule, "data": LightningDataModule}
    paths = [value for name, value in pairwise(args) if name in ("--config", "-c")]
    paths += [arg.partition("=")[2] for arg in args if arg.startswith("--config=")]
    named: dict[str, type] = {}
    for path in paths:
        with suppress(OSError, UnicodeDecodeError, yaml.YAMLError):  # Parsing refuses it.
            config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            config = config if isinstance(config, dict) else {}
            for part, base in bases.items():
                if isinstance(config.get(part), dict) and "class_path" in config[part]:
                    named[part] = base
    return named


# Lightning's `Timer` and others have defaults of this type.
yaml.SafeDumper.add_multi_representer(
    StrEnum, lambda dumper, value: dumper.represent_str(str(value.value))
)
# A mode with a name of its own: other parsers in this process keep theirs.
set_loader("yaml_unique", load_yaml, (yaml.YAMLError,))


def shorten(message: str) -> str:
    """Shorten jsonargparse's paragraph, with one line per type, to one sentence."""
    if message.startswith("Unexpected config"):  # The whole file would follow.
        return "Expected options with their values, such as `data: {val_size: 0}`."
    if message.startswith("Problems parsing config: "):
        return " ".join(message.split()[3:]).replace('in "<unicode string>", ', "at ")
    key = re.match('Parser key "(.*?)":', message)
    if not key and not message.startswith("Does not validate"):
        return message
    lines = message[key.end() if key else 0 :].splitlines()
    reasons = dict.fromkeys(line.strip(" -") for line in lines if not _NOISE.match(line))
    if reasons or not key:
        reason = " ".join(reasons).replace("Unable to load config", "Expected a mapping, but got")
        return f"`{key[1]}`: {reason}" if key else reason
    given = re.search("(?:Given|Got) value: (.*)", message)
    types = dict.fromkeys(_in_words(kind) for kind in _TYPE.findall(message))
    expected = " or ".join(name for name in types if name)
    return f"Expected `{key[1]}` to be {expected}, but got {given[1] if given else 'another':.200}."


def _in_words(kind: str) -> str:
    """Name a type; return "" for None and paths to config files, which nobody means."""
    if kind.startswith("typing.Literal"):
        return " or ".join(kind.removeprefix("typing.Literal").strip("[]").split(", "))
    name = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind)
    is_meant = name != "NoneType" and not name.startswith("path but ")
    return _NAMES.get(name, f"a {name}") if is_meant else ""


# Options of one subcommand only: its name and theirs, type, default, help.
_OPTIONS: list[tuple[str, str, Any, Any, str]] = [
    ("fit", "test_after_fit", bool, True, "Whether fit ends by testing the best checkpoint."),
    ("fit", "every_n_train_steps", int | None, None, "Write last.ckpt also every so many steps."),
    ("fit", "seeds", int, 1, "Number of runs, with seeds from `seed_everything` on."),
    ("fit", "compare_to", str | None, None, "A summary.json of other runs with the same seeds."),
    ("predict", "preview", str | None, None, "A PNG of the first `data.images` and what is seen."),
]


class _HelpAll(Action):
    """Prints what jsonargparse knows of all options."""

    def __init__(self, option_strings: list[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, SUPPRESS, nargs=0, default=SUPPRESS, **kwargs)

    @override
    def __call__(self, parser: Any, *_: Any) -> None:
        print(LightningArgumentParser.format_help(parser))
        parser.exit()


class Parser(LightningArgumentParser):
    """Lightning's parser, with short refusals that name the config file they are about."""

    _file = ""  # the config file that is being read

    def __init__(self, *args: Any, command: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **{"parser_mode": "yaml_unique", **kwargs})
        self.command = command  # whose options it parses

    def add_own_options(self) -> None:
        """Add the options that only this subcommand has."""
        self.add_argument("--help_all", action=_HelpAll, help="Show all options and exit.")
        for command, name, kind, default, text in _OPTIONS:
            if command == self.command:
                self.add_argument(f"--{name}", type=kind, default=default, help=text)

    @override
    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Return one line for each option that people change; `--help_all` has the others."""
        return describe(self.command, self._actions)

    @override
    def print_usage(self, file: Any = None) -> None:
        """Print nothing: two hundred options would hide the error that follows."""

    @override
    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Namespace:
        """Parse a config file."""
        self._file = f"{path}: "
        try:
            config: Namespace = super().parse_path(path, *args, **kwargs)
            return config
        except UnicodeDecodeError as error:
            self.error(f"Expected text in UTF-8, but got {error}.", error)
        finally:
            self._file = ""

    @override
    def error(self, message: str, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse in one sentence."""
        command = re.match(r"argument subcommand: invalid choice: (\S+)", message)
        if command:  # argparse does not know `demo`, which has a parser of its own.
            names = ", ".join(COMMANDS)
            message = f"Expected the command to be one of {names}, but got {command[1]}."
        unknown = re.match(r"unrecognized arguments: (--\S+)", message)
        if unknown and (meant := nearest(unknown[1], self._actions)):
            message = f"{message}; did you mean {meant}?"
        super().error(self._file + shorten(message), *args, **kwargs)
