"""`fashion-lightning demo`, which needs neither a trainer nor a run's folder."""

import signal
from collections.abc import Sequence
from pathlib import Path

from fashion_lightning.cli.parser import Parser
from fashion_lightning.cli.run import find_checkpoint


def demo_parser() -> Parser:
    """Return the parser of the demo's options."""
    from fashion_lightning.demo import serve  # Nothing else needs it.

    parser = Parser(prog="fashion-lightning demo", command="demo")
    parser.add_function_arguments(serve)
    return parser


def demo(args: Sequence[str]) -> None:
    """Serve the demo's page with these options until Ctrl-C or SIGTERM."""
    from fashion_lightning.demo import serve

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Uploads are removed then, too.
    parser = demo_parser()
    options = parser.parse_args([*args])
    try:
        if options.ckpt_path is not None:
            options.ckpt_path = find_checkpoint(Path(), options.ckpt_path)
        serve(options.ckpt_path, options.host, options.port)
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))
