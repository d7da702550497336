"""Lightning's CLI for this package: a folder a run, defaults by hardware and clear refusals."""

from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelSummary, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from typing_extensions import override

from fashion_lightning.atomic import replacing
from fashion_lightning.callbacks import (
    BestAndLast,
    Interrupted,
    PredictionWriter,
    PreviewWriter,
    ReportWriter,
    SteadyProgressBar,
)
from fashion_lightning.checkpoints.atomic_io import AtomicCheckpointIO
from fashion_lightning.checkpoints.reading import read_checkpoint
from fashion_lightning.checkpoints.trust import check_weights, recorded_arguments
from fashion_lightning.cli.preflight import (
    check_batches,
    check_callbacks,
    check_scores,
    check_seeds,
    check_teacher,
    check_trainer_options,
)
from fashion_lightning.cli.run import Series, discard, find_checkpoint, new_folder, run_of
from fashion_lightning.datamodule import FashionMNISTDataModule

# How constructors refuse an argument. Another exception is a bug, and keeps its traceback.
_REFUSALS = (ValueError, TypeError, OSError, ImportError, MisconfigurationException)


class _NoProfiler(PassThroughProfiler):
    @override
    def profile(self, action_name: str) -> Any:
        """Do nothing. Lightning's does nothing, too, but builds a generator for it."""
        return nullcontext()


class FashionLightningCLI(LightningCLI):
    """LightningCLI that keeps all of a run in one folder and never scores random weights."""

    _checkpoint: dict[str, Any] | None = None  # what is to be continued, or evaluated
    _begun: tuple[Path, ...] = ()  # the folder made for this run, and one that was there before

    def __init__(self, *args: Any, series: Series | None = None, **kwargs: Any) -> None:
        self.series = series  # of several seeds
        words = kwargs.get("args")
        first = words[0] if isinstance(words, list) and words else None
        self._asked = first if first in self.subcommands() else None
        super().__init__(*args, **kwargs)

    @override
    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        """Describe a command's options, which takes time, unless another command was asked for."""
        if self._asked in (None, subcommand):
            return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        return self.init_parser(**kwargs)

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        """Return the commands, each with those of its arguments that the command line has not."""
        return {**LightningCLI.subcommands(), "export": {"model", "datamodule"}}

    @override
    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """Add the options that belong to one command only."""
        super().setup_parser(*args, **kwargs)
        self._subcommand_parsers["fit"].add_argument(
            "--test_after_fit",
            type=bool,
            default=True,
            help="Whether fit ends by testing the best checkpoint.",
        )
        self._subcommand_parsers["fit"].add_argument(
            "--every_n_train_steps",
            type=int | None,
            default=None,
            help="Write last.ckpt also after every so many steps, not only after each epoch.",
        )
        self._subcommand_parsers["fit"].add_argument(
            "--seeds",
            type=int,
            default=1,
            help="Number of runs, with seeds from seed_everything on. Several get a summary.",
        )
        self._subcommand_parsers["fit"].add_argument(
            "--compare_to",
            type=str | None,
            default=None,
            help="A summary.json of other runs with the same seeds, to test the difference.",
        )
        self._subcommand_parsers["predict"].add_lightning_class_args(
            PredictionWriter, "predictions"
        )

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse twice if there is a checkpoint: what it records are the defaults of the rest."""
        try:
            super().parse_arguments(parser, args)
        except UnicodeDecodeError as error:  # of a file given for a part, such as `--model FILE`
            parser.error(f"Expected text in UTF-8, but got {error}.")
        command = self.config["subcommand"]
        config = self.config[command]
        if config.get("lr_scheduler") and not config.get("optimizer"):
            parser.error(
                "Expected `lr_scheduler` to be given together with `optimizer`, since the model's "
                f"own follows `warmup`, but got only {config.lr_scheduler.class_path}."
            )
        for name in ("model", "data", "trainer"):
            if not isinstance(config[name], Namespace):
                parser.error(f"Expected `{name}` to be a mapping, but got {config[name]!r}.")
        seed, ckpt_path = config.seed_everything, config.ckpt_path
        if command == "fit" and config.seeds > 1 and ckpt_path == "last":
            root = Path(config.trainer.default_root_dir or "")
            self.series = Series.unfinished(root, range(seed, seed + config.seeds))
            if self.series is None:
                parser.error(
                    f"Expected a series of {config.seeds} seeds from {seed} on to continue, but "
                    f"there is none below {root / 'lightning_logs'} of which a run is missing."
                )
            seed = config.seed_everything = self.series.missing()[0]
            ckpt_path = config.ckpt_path = self.series.checkpoint(seed)
        if command == "fit" and ckpt_path is None:
            return
        try:
            path = find_checkpoint(Path(config.trainer.default_root_dir or ""), ckpt_path)
            self._checkpoint = read_checkpoint(path, continues=command == "fit")
            recorded = recorded_arguments(
                self._checkpoint,
                network=config.model.network is None,
                leave_out=FashionMNISTDataModule.LOCAL_ARGUMENTS,
            )
            self._subcommand_parsers[command].set_defaults(recorded)
        except (FileNotFoundError, ValueError) as error:
            parser.error(str(error))
        except KeyError as error:
            parser.error(f"Expected a checkpoint of FashionMNISTClassifier, but {path} has {error}")
        super().parse_arguments(parser, args)
        config = self.config[command]
        config.ckpt_path, config.seed_everything = str(path), seed
        if command == "fit":
            # The optimizer's state brings its own options: others would silently do nothing.
            for name in ("optimizer", "lr", "weight_decay", "beta2"):
                given, right = config.model[name], recorded.get(f"model.{name}", config.model[name])
                if given != right:
                    parser.error(
                        f"Expected `{name}` to be {right}, with which the run that is continued "
                        f"began, but got {given}."
                    )

    @override
    def _parse_ckpt_path(self) -> None:
        """Do nothing: LightningCLI's would let the checkpoint win over explicit arguments."""

    @override
    def _set_seed(self) -> None:
        """Seed everything, with a seed that NumPy takes, too."""
        seed = self._get(self.config, "seed_everything")
        if not 0 <= seed < 2**32:
            self.parser.error(
                f"Expected `seed_everything` to be an int in 0 ... {2**32 - 1}, but got {seed}."
            )
        super()._set_seed()

    @override
    def before_instantiate_classes(self) -> None:
        """Train in bf16 where the hardware multiplies it natively, unless told otherwise."""
        trainer = self.config[self.config.subcommand].trainer
        if trainer.precision is None and trainer.plugins is None:
            bf16 = self.subcommand == "fit" and multiplies_bf16(trainer.accelerator)
            trainer.precision = "bf16-mixed" if bf16 else "32-true"

    @override
    def instantiate_classes(self) -> None:
        """Build everything; what the constructors refuse ends in one sentence."""
        try:
            super().instantiate_classes()
        except _REFUSALS as error:
            self.parser.error(str(error))

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Give the trainer its run's folder, loggers and callbacks."""
        check_scores(self.model)  # before the run has a folder
        if self._checkpoint:
            check_weights(self.model, self._checkpoint["state_dict"])
            # Explicit arguments win; otherwise these are the checkpoint's own.
            self.model.register_load_state_dict_post_hook(partial(_set, **self._constants()))
        config = self._get(self.config_init, "trainer")
        check_trainer_options(config)
        if self.subcommand == "fit":
            check_teacher(config, self.datamodule)
        checkpoint = self._get(self.config, "ckpt_path")
        run = run_of(Path(checkpoint)) if checkpoint else None
        if run and config.default_root_dir:  # Whoever names a folder means it.
            root = Path(config.default_root_dir).resolve()
            run = run if run.resolve().is_relative_to(root) else None
        begins = run is None and not config.fast_dev_run and _is_first_process()
        if run is None:
            root = Path(config.default_root_dir or "")
            there = next(folder for folder in (root, *root.parents) if folder.exists())
            try:
                run = new_folder(root, "version") if begins else root
                self._begun = (run, there) if begins else ()
            except OSError as error:
                raise ValueError(
                    "Expected `default_root_dir` to be a folder that can be written, "
                    f"but got {root} ({error.strerror})."
                ) from error
        try:
            trainer = super().instantiate_trainer(**kwargs, **self._trainer_arguments(config, run))
            check_batches(trainer, self.datamodule)
            check_callbacks(trainer, self.model, self._get(self.config, "lr_scheduler"))
            if self.subcommand == "fit":
                check_seeds(self.config.fit, trainer, continues=self.series is not None)
            return trainer
        except BaseException as error:
            self._discard()
            # Many of Lightning's refusals do not say what they got.
            if isinstance(error, MisconfigurationException | TypeError | ImportError):
                raise ValueError(f"{error} Got {self._trainer_options()}.") from error
            raise

    def _constants(self) -> dict[str, float]:
        """Return the model's constants that a checkpoint holds, too."""
        return {name: self._get(self.config, "model")[name] for name in ("mean", "std")}

    def _trainer_arguments(self, config: Namespace, run: Path) -> dict[str, Any]:
        """Return what the trainer gets beside its own options, with all its files in `run`."""
        fits, trial = self.subcommand == "fit", bool(config.fast_dev_run)
        arguments: dict[str, Any] = {
            "default_root_dir": str(run),
            "enable_model_summary": False,  # `before_fit` prints one.
        }
        if self.datamodule.val_size == 0:
            arguments["limit_val_batches"] = 0
        callbacks, plugins = _as_list(config.callbacks), _as_list(config.plugins)
        arguments |= {"callbacks": callbacks, "plugins": plugins}
        if self.subcommand == "test":
            callbacks.append(ReportWriter(run))
        if self.subcommand == "predict" and self.config.predict.get("preview"):
            callbacks.append(PreviewWriter(self.config.predict.get("preview")))
        if config.barebones:  # Nothing but the steps.
            return arguments
        if any(isinstance(callback, BestAndLast) for callback in callbacks):
            raise ValueError(
                "Expected `callbacks` to be without BestAndLast, which `fit` has anyway (with "
                "`--every_n_train_steps`), but got it."
            )
        if fits and not trial and config.enable_checkpointing is not False:
            n = self._get(self.config, "every_n_train_steps")
            callbacks.append(BestAndLast(run / "checkpoints", every_n_train_steps=n))
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(AtomicCheckpointIO())
        has_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
        if config.enable_progress_bar is not False and not has_bar:
            callbacks.append(SteadyProgressBar())
        if config.profiler is None:
            arguments["profiler"] = _NoProfiler()
        if config.logger in (None, True):
            # Training writes curves; the other commands must not touch those. In a trial run,
            # Lightning puts a logger that writes nothing in the place of any.
            arguments["logger"] = fits and (CSVLogger(run) if trial else _loggers(run))
        return arguments

    def _trainer_options(self) -> str:
        """Name the trainer's plain options that differ from the defaults."""
        defaults = self._parser(self.subcommand).get_defaults().trainer
        return ", ".join(
            f"{name}={value}"
            for name, value in self._get(self.config, "trainer").items()
            if value != defaults.get(name) and isinstance(value, int | float | str)
        )

    def _run_subcommand(self, subcommand: str) -> None:
        """Say where and how the command computes, then run it."""
        trainer = self.trainer
        rank_zero_info(
            f"{subcommand}: on {trainer.strategy.root_device}, precision {trainer.precision}, "
            f"files in {trainer.default_root_dir}"
        )
        try:
            super()._run_subcommand(subcommand)
        except (FileExistsError, ImportError, MisconfigurationException) as error:
            if self._begun and not trainer.global_step:  # A run that has not begun leaves nothing.
                (Path(trainer.default_root_dir) / "config.yaml").unlink(missing_ok=True)
            self.parser.error(str(error))
        except RuntimeError as error:
            if not str(error).startswith("Early stopping conditioned on metric"):
                raise
            self.parser.error(str(error).splitlines()[0])
        except ValueError as error:
            if subcommand != "export":  # Elsewhere it is a bug.
                raise
            self.parser.error(str(error))
        except (FloatingPointError, OSError) as error:
            self.parser.exit(1, f"\nerror: {error}\n")
        except Interrupted as stop:
            run = Path(trainer.default_root_dir)
            last = run / "checkpoints" / stop.checkpoint.name
            how = f"  fashion-lightning fit --config {run / 'config.yaml'} --ckpt_path {last}"
            if self.series:
                how = "  the same command, with --ckpt_path last; complete runs are not repeated."
            rank_zero_info(f"\nStopped. To continue:\n{how}")
            raise
        finally:
            self._discard()

    def _discard(self) -> None:
        """Remove the run's folder if nothing was written there."""
        if self._begun:
            discard(*self._begun)

    # Every callback costs time in every training step, so what has only one moment is no callback.

    def before_fit(self) -> None:
        """Show the network's layers and keep the configuration in the run's folder."""
        config, trainer = self.config.fit, self.trainer
        if config.trainer.enable_model_summary is not False and not config.trainer.barebones:
            # Only here: other people's summaries and hooks may not expect another forward.
            self.model.example_input_array = torch.zeros(3, 1, 28, 28)
            ModelSummary(max_depth=-1).on_fit_start(trainer, self.model)
            self.model.example_input_array = None
        if trainer.is_global_zero and not config.trainer.fast_dev_run:
            # What was continued, or beside it, is no setting: the file serves to run it all again.
            settings = config.clone()
            settings.ckpt_path = settings.compare_to = None
            settings.seeds = 1
            text = self._parser("fit").dump(settings, skip_none=False)
            with replacing(Path(trainer.default_root_dir) / "config.yaml") as new:
                new.write_text(text)
            if self.series or config.seeds > 1:
                self._note_run(settings)

    def _note_run(self, settings: Namespace) -> None:
        """Keep that a run of a series of seeds begins, before it does."""
        seed, run = settings.seed_everything, Path(self.trainer.default_root_dir)
        settings.seed_everything = None
        text = self._parser("fit").dump(settings, skip_none=False)
        if self.series is None:
            seeds = range(seed, seed + self.config.fit.seeds)
            self.series = Series.begin(run.parent.parent, seeds, text)
        if text != self.series.settings:
            other = next(
                ours
                for ours, theirs in zip_longest(
                    text.splitlines(), self.series.settings.splitlines()
                )
                if ours != theirs
            )
            self.parser.error(
                f"Expected the settings with which {self.series.folder} began, but got others: "
                f"{str(other).strip()}."
            )
        self.series.note(seed, str(run))

    def after_predict(self) -> None:
        """Name the photographs that could not be read; then this was no full success."""
        writers = [c for c in self.trainer.callbacks if isinstance(c, PredictionWriter)]  # type: ignore[attr-defined]
        problems = [f"{path}: {why}" for w in writers for path, why in w.problems.items()]
        if problems:
            number = "One image" if len(problems) == 1 else f"{len(problems)} images"
            self.parser.exit(1, "\n".join([f"error: {number} could not be read:", *problems, ""]))

    def after_fit(self) -> None:
        """Test the best checkpoint and say what can be done next."""
        trainer: Any = self.trainer  # Lightning declares no type for its list of callbacks.
        # Only the first of several processes knows the run's folder.
        run = Path(trainer.strategy.broadcast(trainer.default_root_dir))
        best = run / "checkpoints" / "best.ckpt"
        if self.config.fit.trainer.fast_dev_run or not trainer.strategy.broadcast(best.exists()):
            return
        if self.config.fit.test_after_fit:
            trainer.callbacks.append(ReportWriter(run))
            trainer.test(self.model, self.datamodule, ckpt_path=best)
        rank_zero_info(
            f"\nThe run's folder is {run}. Next:\n"
            f"  fashion-lightning test --ckpt_path {best}\n"
            f"  fashion-lightning predict --ckpt_path {best}\n"
            f"  fashion-lightning export --ckpt_path {best}"
        )


def _set(model: Any, _: Any, **constants: float) -> None:
    """Set buffers of a model."""
    for name, value in constants.items():
        getattr(model, name).fill_(value)


def _is_first_process() -> bool:
    """Tell, before Lightning has connected several processes, whether this is the first."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _as_list(value: Any) -> list[Any]:
    """Return what the Trainer takes as one, as several or as None."""
    if value is None:
        return []
    return [*value] if isinstance(value, list) else [value]


def _loggers(run: Path) -> list[Logger]:
    """Return a CSV logger, and one for TensorBoard where that is installed."""
    curves = run / "metrics.csv"
    if (
        curves.exists() and _is_first_process()
    ):  # This run is being continued, and CSVLogger deletes what it finds.
        curves.rename(run / f"metrics_{len(list(run.glob('metrics_*.csv'))) + 1}.csv")
    loggers: list[Logger] = [CSVLogger(run, name="", version="")]
    if find_spec("tensorboard"):
        loggers.append(TensorBoardLogger(run, name="", version=""))
    return loggers


def multiplies_bf16(accelerator: str) -> bool:
    """Tell whether the hardware that `accelerator` stands for multiplies bf16 natively."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if accelerator == "cpu" or (accelerator == "auto" and not torch.backends.mps.is_available()):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False
