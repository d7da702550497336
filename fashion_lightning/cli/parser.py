"""The command's parser: what is wrong in an argument or a config file, it says in one sentence."""

import re
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace, get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser
from lightning_utilities.core.enums import StrEnum
from typing_extensions import override

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
# Lines of jsonargparse's paragraphs: which type it tried, and what adds nothing to that.
_TYPE = re.compile(
    r"^\W*(?:Expected an?|Import path does not correspond to an?) (.*?)(?:: .*|\. Got value.*)?$",
    re.MULTILINE,
)
_NOISE = re.compile(
    r"\W*(?:Parser key|Expected an? |Import path|Does not validate|Subtypes|Errors|Given value|$)"
)


def load_yaml(text: str) -> Any:
    """Load YAML like jsonargparse, but refuse a key that occurs twice: one would be ignored."""
    value = _load(text)
    nodes = [yaml.compose(text, Loader=yaml.SafeLoader)] if isinstance(value, dict) else []
    for node in nodes:  # The list grows: a node adds what it holds, once, though aliases repeat it.
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, _ in node.value:
                if key.value in keys:
                    line = key.start_mark.line + 1
                    raise yaml.YAMLError(
                        f"Expected `{key.value}` once, but line {line} repeats it."
                    )
                keys.add(key.value)
            children = [content for _, content in node.value]
        nodes += [child for child in children if child not in nodes]
    return value


# Defaults of Lightning's, such as that of its `Timer`, which a configuration shows as text.
yaml.SafeDumper.add_multi_representer(
    StrEnum, lambda dumper, value: dumper.represent_str(str(value.value))
)
# A mode of its own: other parsers in this process keep theirs.
set_loader("yaml_unique", load_yaml, (yaml.YAMLError,))


def shorten(message: str) -> str:
    """Say in one sentence what jsonargparse spreads over a paragraph, with a line for each type."""
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
    right = " or ".join(name for name in types if name)
    return f"Expected `{key[1]}` to be {right}, but got {given[1] if given else 'another':.200}."


def _in_words(kind: str) -> str:
    """Name a type; nothing for what nobody means who gives a wrong value."""
    if kind.startswith("typing.Literal"):
        return " or ".join(kind.removeprefix("typing.Literal").strip("[]").split(", "))
    name = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind)
    meant = name != "NoneType" and not name.startswith("path but ")
    return _NAMES.get(name, f"a {name}") if meant else ""


class Parser(LightningArgumentParser):
    """Lightning's parser, with short refusals that name the config file they are about."""

    _file = ""  # the config file that is being read

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"parser_mode": "yaml_unique", **kwargs})

    @override
    def print_usage(self, file: Any = None) -> None:
        """Print nothing: before an error, two hundred options would hide it. See ``--help``."""

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
        super().error(self._file + shorten(message), *args, **kwargs)
