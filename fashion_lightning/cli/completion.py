"""`fashion-lightning --print_completion`: a shell's completion of commands and options."""

from argparse import SUPPRESS, Action
from typing import Any

from typing_extensions import override

from fashion_lightning.arguments import installed
from fashion_lightning.cli.demo import demo_parser
from fashion_lightning.cli.help import COMMANDS


class PrintCompletion(Action):
    """Prints a script that completes options without starting Python, and values as files.

    jsonargparse's own also describes the options of all classes that a value may name. With
    PyTorch's, it does not end.
    """

    def __init__(self, option_strings: list[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, SUPPRESS, default=SUPPRESS, **kwargs)

    @override
    def __call__(self, parser: Any, _: Any, shell: Any, *__: Any) -> None:
        installed("shtab", "completion", "this option")
        import shtab  # Nothing else needs it.

        commands = parser._subcommands_action
        commands.add_subcommand("demo", demo_parser())
        for name, command in commands.choices.items():
            command.description = COMMANDS[name]
            for action in command._actions:
                action.complete = shtab.FILE
        # zsh asks the options of the command itself first.
        parser._option_string_actions["--config"].complete = shtab.FILE
        print(shtab.complete(parser, shell))
        parser.exit()
