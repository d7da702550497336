"""The LightningCLI: options, checkpoints that set their defaults, and what a run prints."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from fashion_lightning import __version__
from fashion_lightning.atomic import replacing
from fashion_lightning.callbacks import Interrupted, PredictionWriter, ReportWriter
from fashion_lightning.checkpoints.reading import read_checkpoint
from fashion_lightning.checkpoints.trust import check_weights, recorded_arguments
from fashion_lightning.cli import preflight
from fashion_lightning.cli.completion import PrintCompletion
from fashion_lightning.cli.output import Layers, results
from fashion_lightning.cli.parser import Parser
from fashion_lightning.cli.photos import PhotoModule
from fashion_lightning.cli.run import Run, claim_folder, find_checkpoint
from fashion_lightning.cli.several_seeds import Series, check_seeds
from fashion_lightning.cli.trainer import trainer_arguments
from fashion_lightning.datamodule import FashionMNISTDataModule
from fashion_lightning.hooks.resuming import OPTIMIZER_ARGUMENTS, check_continued
from fashion_lightning.module import FashionMNISTClassifier
from fashion_lightning.photos import PhotoClassifier
from fashion_lightning.speed import multiplies_bf16

# How constructors refuse an argument. Other exceptions are bugs, and keep their traceback.
_REFUSALS = (ValueError, TypeError, OSError, ImportError, MisconfigurationException)


class FashionLightningCLI(LightningCLI):
    """LightningCLI that keeps all files of a run in one folder and never scores random weights."""

    subcommand: str = ""
    trainer: Any  # Lightning declares no type for its list of callbacks.

    def __init__(self, *args: Any, series: Series | None = None, **kwargs: Any) -> None:
        self.series = series  # of runs with several seeds
        self.run = Run(Path())
        self.parsers: dict[str | None, Parser] = {}  # by subcommand
        self.checkpoint: Path | None = None  # to be continued or evaluated
        called, known = (kwargs.get("args") or [None])[0], self.subcommands()
        if called in known:  # To describe the options of another takes 0.04 s.
            self.subcommands = lambda: {called: known[called]}  # type: ignore[method-assign]
        own = {name: {"command": name} for name in self.subcommands()}
        kwargs["parser_kwargs"] = {"prog": "fashion-lightning", "version": __version__, **own}
        try:
            super().__init__(*args, **kwargs)
        except (FileExistsError, ImportError, MisconfigurationException) as error:
            if self.run.created and not self.trainer.global_step:  # Refused before its first step.
                self.run.config.unlink(missing_ok=True)
                if self.series:
                    self.series.keep(self._earlier_runs)
            self.parser.error(str(error))
        except (FloatingPointError, OSError) as error:
            self.parser.exit(1, f"\nerror: {error}\n")
        except (RuntimeError, ValueError) as error:
            refuses = isinstance(error, ValueError) and self.subcommand == "export"
            if not refuses and not str(error).startswith("Early stopping conditioned on metric"):
                raise  # It is a bug.
            self.parser.error(str(error).splitlines()[0])
        except Interrupted:
            config, last = self.run.config, self.run.last
            command = f"fashion-lightning fit --config {config} --ckpt_path {last}"
            if self.series:
                command = "the same command, with --ckpt_path last; complete runs are not repeated."
            rank_zero_info(f"\nStopped. To continue:\n  {command}")
            raise
        finally:
            self.run.discard_if_empty()

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        """Map each subcommand to the arguments of its method that are no options."""
        return {**LightningCLI.subcommands(), "export": {"model", "datamodule"}}

    @override
    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """Add the option that is about all subcommands."""
        super().setup_parser(*args, **kwargs)
        shells = ["bash", "zsh"]
        self.parser.add_argument("--print_completion", action=PrintCompletion, choices=shells)

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options that belong to one subcommand only."""
        assert isinstance(parser, Parser)
        self.parsers[parser.command] = parser
        parser.add_own_options()
        if parser.command == "predict":
            parser.add_lightning_class_args(PredictionWriter, "predictions")

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse twice if there is a checkpoint: what it records are the defaults of the rest."""
        try:
            super().parse_arguments(parser, args)
            command = self.config.subcommand
            config = self.config[command]
            preflight.check_config(command, config)
            root = Path(config.trainer.default_root_dir or "")
            if command == "fit" and config.seeds > 1 and config.ckpt_path == "last":
                seed = config.seed_everything
                self.series = Series.unfinished(root, range(seed, seed + config.seeds))
                config.seed_everything = self.series.missing()[0]
                config.ckpt_path = self.series.checkpoint(config.seed_everything)
            is_own = command == "predict" and config.data.get("images") is not None
            if config.ckpt_path is None and (command == "fit" or is_own):
                return
            self.checkpoint = find_checkpoint(root, config.ckpt_path)
            content = read_checkpoint(self.checkpoint, continues=command == "fit")
            network, left_out = config.model.get("network"), FashionMNISTDataModule.LOCAL_ARGUMENTS
            recorded = recorded_arguments(content, network=network is None, leave_out=left_out)
            named = tuple(f"{part}." for part in ("model", "data") if "class_path" in config[part])
            # A class that a config file names has other options, which that file sets.
            own = {name: value for name, value in recorded.items() if not name.startswith(named)}
            self.parsers[command].set_defaults(own)
            super().parse_arguments(parser, args)
            if command == "fit" and "model." not in named:
                model = content["hyper_parameters"]
                check_continued(self.config.fit.model, model, ("lr", *OPTIMIZER_ARGUMENTS))
        except UnicodeDecodeError as error:  # of a file given for a part, such as `--model FILE`
            parser.error(f"Expected text in UTF-8, but got {error}.")
        except (FileNotFoundError, ValueError) as error:
            parser.error(str(error))
        except KeyError as error:  # of `set_defaults`
            path = self.checkpoint
            parser.error(f"Expected a checkpoint of FashionMNISTClassifier, but {path} has {error}")
        self.weights = content["state_dict"]
        self.config[command].seed_everything = config.seed_everything
        # `before_instantiate_classes` sets it again. In between, LightningCLI would read the file
        # and let its arguments win over explicit ones.
        self.config[command].ckpt_path = None

    @override
    def before_instantiate_classes(self) -> None:
        """Train in bf16 where the hardware multiplies it natively, unless told otherwise."""
        config = self.config[self.subcommand]
        config.ckpt_path = self.checkpoint and str(self.checkpoint)
        if config.trainer.precision is None and config.trainer.plugins is None:
            bf16 = self.subcommand == "fit" and multiplies_bf16(config.trainer.accelerator)
            config.trainer.precision = "bf16-mixed" if bf16 else "32-true"

    @override
    def instantiate_classes(self) -> None:
        """Build everything; what the constructors refuse ends in one sentence."""
        try:
            super().instantiate_classes()
        except _REFUSALS as error:
            self.parser.error(preflight.reworded(str(error)))

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with its run's folder, loggers and callbacks."""
        config, options = self.config_init[self.subcommand], self.config[self.subcommand]
        preflight.check_parts(self.subcommand, config.trainer, self.model, self.datamodule)
        if self.checkpoint:
            check_weights(self.model, self.weights)
            # Explicit arguments win over the buffers that the weights bring.
            if "class_path" not in options.model:
                explicit = partial(_fill, mean=options.model.mean, std=options.model.std)
                self.model.register_load_state_dict_post_hook(explicit)
        self.run = Run.open(self.subcommand, options, self.checkpoint)
        arguments = trainer_arguments(self.subcommand, config, self.run, self.datamodule)
        try:
            trainer = super().instantiate_trainer(**kwargs, **arguments)
        except (MisconfigurationException, TypeError, ImportError) as error:
            # Many of Lightning's refusals do not name the value.
            defaults = self.parsers[self.subcommand].get_defaults().trainer
            given = [
                f"{name}={value}"
                for name, value in options.trainer.items()
                if value != defaults.get(name) and isinstance(value, int | float | str)
            ]
            raise ValueError(f"{error} Got {', '.join(given)}.") from error
        preflight.check_batches(trainer, self.datamodule)
        preflight.check_callbacks(trainer, self.model, options.get("lr_scheduler"))
        if self.subcommand == "fit":
            check_seeds(options, trainer, continues=self.series is not None)
            if self.series:
                self.series.check_settings(self._settings(seed_everything=None))
        return trainer

    def _settings(self, **changes: Any) -> str:
        """Return the configuration as YAML, without the options about other runs."""
        config = self.config.fit.clone()
        changes |= {"ckpt_path": None, "compare_to": None, "seeds": 1}
        for name, value in changes.items():
            config[name] = value
        return str(self.parsers["fit"].dump(config, skip_none=False))

    @override
    def after_instantiate_classes(self) -> None:
        """Print where and how the command computes."""
        trainer = self.trainer
        where = f", files in {trainer.default_root_dir}"
        if self.subcommand == "predict" and self.config.predict.predictions.path:
            where = ""
        rank_zero_info(
            f"{self.subcommand}: on {trainer.strategy.root_device}, precision {trainer.precision}"
            + where
        )

    # What happens once per run is a hook of LightningCLI: callbacks cost time in each step.

    def before_fit(self) -> None:
        """Print the network's layers and write the configuration into the run's folder."""
        config, trainer = self.config.fit, self.trainer
        is_shown = config.trainer.enable_model_summary is not False and not config.trainer.barebones
        if is_shown and isinstance(self.model, FashionMNISTClassifier):
            # Only here: other people's summaries and hooks may not expect another forward.
            self.model.example_input_array = torch.zeros(3, 1, 28, 28)
            Layers(max_depth=-1).on_fit_start(trainer, self.model)
            self.model.example_input_array = None
        if not trainer.is_global_zero or config.trainer.fast_dev_run:
            return
        seed = config.seed_everything
        if self.series is None and config.seeds > 1:
            seeds, settings = range(seed, seed + config.seeds), self._settings(seed_everything=None)
            folder = claim_folder(self.run.folder.parent.parent, "seeds")
            self.series = Series(folder, [*seeds], settings)
        if self.series:
            self._earlier_runs = self.series.runs
            self.series.keep({**self.series.runs, seed: str(self.run.folder)})
        with replacing(self.run.config) as new:
            new.write_text(self._settings())

    def before_predict(self) -> None:
        """Classify photographs, by the checkpoint if one was given, as their background demands."""
        if self.config.predict.data.get("images") is None:
            return
        if self.checkpoint:
            self.model.load_state_dict(self.weights)
        classifier = PhotoClassifier(self.model if self.checkpoint else None)
        self.datamodule.photo_classifier = classifier
        self.model, self.config_init.predict.ckpt_path = PhotoModule(classifier.plain), None

    def after_predict(self) -> None:
        """Name the photographs that could not be read, and exit with code 1 if there are any."""
        writers = [each for each in self.trainer.callbacks if isinstance(each, PredictionWriter)]
        problems = [f"{path}: {why}" for w in writers for path, why in w.problems.items()]
        if problems:
            number = "One image" if len(problems) == 1 else f"{len(problems)} images"
            self.parser.exit(1, "\n".join([f"error: {number} could not be read:", *problems, ""]))

    def after_fit(self) -> None:
        """Test the best checkpoint and print the next commands."""
        trainer = self.trainer
        # Only the first of several processes knows the run's folder.
        run = Run(Path(trainer.strategy.broadcast(trainer.default_root_dir)))
        exists = trainer.strategy.broadcast(run.best.exists())
        is_classifier = isinstance(self.model, FashionMNISTClassifier)
        if self.config.fit.trainer.fast_dev_run or not exists or not is_classifier:
            return
        lines = []
        if self.config.fit.test_after_fit:
            lines += ["", f"Report: {run.page}"]
            trainer.callbacks.append(ReportWriter(run.folder))
            trainer.test(self.model, self.datamodule, ckpt_path=run.best, verbose=False)
            if trainer.is_global_zero:
                print(results(trainer.callback_metrics))
        if not self.series:  # Its end is the summary.
            lines += ["Next:"]
            lines += [
                f"  fashion-lightning {command} --ckpt_path {run.best}"
                for command in ("test", "predict", "export")
            ]
        if lines:
            rank_zero_info("\n".join(lines))


def _fill(model: Any, _: Any, **buffers: float) -> None:
    """Set buffers of a model."""
    for name, value in buffers.items():
        getattr(model, name).fill_(value)
