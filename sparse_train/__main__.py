"""`python -m sparse_train KEY=VALUE ...`: train one sparse network, leave one record.

Options compose from the groups in `conf/`; with `--multirun`, comma-separated values make a sweep. The last line to
stdout is the run's directory alone, for scripts. stderr ends with the result and, unless it is one of a sweep, with
the command to compare it with.
"""

import os
import re
import shlex
import signal
import sys
from argparse import Namespace
from typing import TYPE_CHECKING, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

import sparse_train
from sparse_train.config import check, run_id
from sparse_train.errors import ConfigError, DivergedError, HeldError, MaskMismatchError, require
from sparse_train.options.command_line import checked, hydras, one_line, parsed, parser, usage
from sparse_train.options.composition import CONF, compose, searched
from sparse_train.options.targets import instantiate
from sparse_train.process.console import STDERR, closing_block, closing_line, give_up_stdout, piped, say
from sparse_train.record.files import expanded

if TYPE_CHECKING:
    from sparse_train.process.distributed import Ranks

HELD = 75  # the exit status of a run that another process is training: EX_TEMPFAIL
METHOD = re.compile(r"[+~]*optimizer([/.](precondition|mirror)[\w./]*)?(=|$)")  # options that make a run's method
COMPILERS = ("torch._dynamo", "torch._inductor", "triton")


class RunError(CompactHydraException):
    """A run of a sweep without a result. The sweep continues, and ends with status 1."""


@piped()
def main() -> None:
    """The command line."""
    if not hasattr(signal, "SIGUSR1"):
        stop("training by command needs signals and file locks of Linux or macOS; on Windows use WSL")
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end)
    typed, arguments, full = sys.argv[1:], parser(), os.environ.get("HYDRA_FULL_ERROR")
    arguments.error = stop
    given = arguments.parse_intermixed_args(typed)
    try:
        if given.help:
            print(usage("keys" in given.overrides, [*filter(None, [given.config_path, given.config_dir])]))
        elif given.version:
            print(f"sparse_train {sparse_train.__version__}")
        else:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors then, instead of printing them
            start(given, typed)
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        if full == "1":
            raise
        stop(one_line(error))
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=STDERR)
        sys.exit(128 + signal.SIGINT)
    finally:
        os.environ.pop("HYDRA_FULL_ERROR", None)
        if full is not None:
            os.environ["HYDRA_FULL_ERROR"] = full


def start(given: Namespace, typed: list[str]) -> None:
    """Check what was typed, then give it to Hydra, which calls `run` once or for each run of a sweep.

    Raises:
        ConfigError, HydraException: for what is wrong with it.
    """
    before, after = (list(filter(None, [path])) for path in (given.config_path, given.config_dir))
    overrides = [] if given.shell_completion else [parsed(expanded(word)) for word in given.overrides]
    for override in (one for one in overrides if one.key_or_group == "hydra.searchpath"):
        key, places = override.key_or_group, override.value()
        require(isinstance(places, list), key, places, "must be a list of directories")
        after += [str(place).removeprefix("file://") for place in places]
    keys = [checked(one, [*before, *after]) for one in overrides if one.key_or_group != "hydra.searchpath"]
    words = given.overrides if given.shell_completion else [one.input_line for one in keys]
    plain = re.fullmatch(r"\w[\w-]*(/\w[\w-]*)*(\.yaml)?", given.config_name or "config") is not None
    require(plain, "--config-name", given.config_name, "must be a name; --config-dir names its directory")
    trains = not (given.cfg or given.info or given.hydra_help or given.shell_completion)
    if trains and not given.multirun:
        fixed = [one.input_line for one in keys if not one.is_sweep_override()]
        cfg = compose(given.config_name or "config", fixed, after, before, with_hydra=True)
        with open_dict(cfg):
            single = cfg.pop("hydra").mode != RunMode.MULTIRUN
        for swept in (one for one in keys if single and one.is_sweep_override()):
            key, _, value = swept.input_line.partition("=")
            raise ConfigError(key, value, "several values need --multirun; a list is written in brackets")
        if single:
            check(cfg)
    if trains and "torch" not in sys.modules and os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        say("loading ...")

    from sparse_train.train import multirun

    @hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
    def called(cfg: DictConfig) -> float | None:
        return run(cfg, typed, given.layers)

    multirun.install()
    program, sys.argv = sys.argv[0], [sys.argv[0], *hydras(given, words)]
    try:
        with searched(after, before):
            called()
    finally:
        sys.argv = [program, *typed]


def end(number: int, frame: object) -> None:
    """End as the signal would by default, but remove half-written files and release the lock first."""
    sys.exit(128 + number)


def stop(line: str, status: int = 1) -> NoReturn:
    """End the program with one line."""
    print(f"error: {' '.join(line.splitlines())}", file=STDERR)
    sys.exit(status)


def run(cfg: DictConfig, typed: list[str], layers: bool = False) -> float | None:
    """Train what the configuration describes, unless that is done.

    Returns:
        The final accuracy in percent, for sweepers: on the images held out of training, else on the test images.

    Args:
        typed: the words of the command, for the one to run next.
        layers: print each layer's density and FLOPs instead.
    """
    where, ranks = "", None
    try:
        check(cfg)
        import torch  # takes seconds, which no error of a key waits for

        from sparse_train.record.record import Record, look_again
        from sparse_train.train import tasks

        if layers:
            return tasks.layers(cfg)
        ranks = processes(cfg)
        tasks.require_same_settings(cfg, ranks)
        record = Record(cfg.runs_dir, run_id(cfg), fresh=cfg.resume == "fresh", ranks=ranks)
        where = f"{record.dir}: "
        if trained := not ranks.from_main(lambda: record.finished):
            instantiate(cfg, "task")(cfg, record)
        else:
            look_again(record)
            tasks.look_at_files(cfg, record)
            tasks.tell(cfg, record)
    except HeldError as error:
        no_result(str(error), HELD)
    except (ConfigError, DivergedError, MaskMismatchError, OmegaConfBaseException, OSError, MemoryError) as error:
        no_result(one_line(error))
    except RuntimeError as error:
        first = str(error).strip().partition("\n")[0]
        if isinstance(error, torch.OutOfMemoryError):
            no_result(f"{where}out of GPU memory; try a smaller batch_size or amp=bf16")
        if cfg.compile and type(error).__module__.startswith(COMPILERS):
            no_result(f"compile={str(cfg.compile).lower()}: {first}; compile=false needs no compiler")
        if ranks is None or ranks.world == 1:
            raise
        no_result(f"rank {ranks.rank} of {ranks.world}: {first}")
    if ranks.main:
        alone = trained and HydraConfig.get().mode == RunMode.RUN
        if alone and "test_acc" in record.content.get("final", {}):
            following = next_command(record.content, typed) if ranks.world == 1 else None
            files = sorted(path.name for path in record.dir.iterdir() if path.is_file() and path != record.lock.path)
            for line in closing_block(record.content, files, following):
                say(line)
        else:
            say(closing_line(record.content) + ("" if trained else "; trained earlier"))
        try:
            print(record.dir, flush=True)
        except OSError as error:  # a full disk, or nobody reads
            say(f"warning: stdout cannot be written ({error.strerror}); the run is complete")
            give_up_stdout()
    final = record.content.get("final", {})
    return final.get("val_acc", final.get("test_acc"))


def next_command(record: dict, arguments: list[str]) -> str | None:
    """The command that trains this run's baseline. If this run is the baseline, the command trains its next seed.

    None where there is no baseline: growth by corrected gradients needs a correction.
    """
    if ((record["config"].get("dst") or {}).get("method") or {}).get("gradient") == "corrected":
        return None
    optimizer = [word for word in arguments if METHOD.match(word)]
    baseline = record.get("choices", {}).get("optimizer") == "sgd" and optimizer in ([], ["optimizer=sgd"])
    change = f"seed={record['config']['seed'] + 1}" if baseline else "optimizer=sgd"
    dropped = [word for word in arguments if re.match(r"\+*seed=", word)] if baseline else optimizer
    dropped += [word for word in arguments if re.match(r"\+*resume=", word)]  # fresh would delete a finished run
    return shlex.join(["python", "-m", "sparse_train", *(word for word in arguments if word not in dropped), change])


def processes(cfg: DictConfig) -> "Ranks":
    """Connect the processes of this run.

    Raises:
        ConfigError: if they cannot connect to each other.
    """
    from sparse_train.process.distributed import join

    try:
        return join(cfg.device, cfg.backend)
    except ConfigError:
        raise
    except (RuntimeError, ValueError) as error:  # torch's, of the network or of what torchrun or srun has said
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise ConfigError("MASTER_ADDR:MASTER_PORT", place, f"the processes cannot connect there ({error})") from error


def no_result(line: str, status: int = 1) -> NoReturn:
    """End the program with a line that says why. In a sweep, end only this run, which reports the line."""
    if HydraConfig.get().mode == RunMode.RUN:
        stop(line, status)
    raise RunError(line)


if __name__ == "__main__":
    main()
    if "torch" in sys.modules:
        from sparse_train.process.distributed import leave

        leave()
