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
from typing import NoReturn

import hydra
import torch
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Sweep
from hydra.errors import CompactHydraException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import sparse_train
from sparse_train.config import check, run_id
from sparse_train.errors import ConfigError, DivergedError, HeldError, MaskMismatchError, require
from sparse_train.options.command_line import CONF, one_line, options, usage
from sparse_train.options.composition import checked
from sparse_train.options.targets import instantiate
from sparse_train.process.console import closing_line, say
from sparse_train.process.distributed import Ranks, join, leave
from sparse_train.record.finished import look_again
from sparse_train.record.record import Record
from sparse_train.train import multirun
from sparse_train.train.tasks import require_same_settings

HELD = 75  # the exit status of a run that another process is training: EX_TEMPFAIL
METHOD = re.compile(r"[+~]*optimizer([/.](precondition|mirror)[\w./]*)?(=|$)")  # options that make a run's method
COMPILERS = ("torch._dynamo", "torch._inductor", "triton")


class RunError(CompactHydraException):
    """A run of a sweep without a result. It has been reported; the sweep continues and ends with status 1."""


def main() -> None:
    """The command line."""
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end)
    try:
        check_arguments(sys.argv[1:])
        with checked():
            multirun.install()
            run()
    except RunError:
        sys.exit(1)
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        stop(one_line(error))
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def end(number: int, frame: object) -> None:
    """End as the signal would by default, but remove half-written files and release the lock first."""
    sys.exit(128 + number)


def stop(line: str, status: int = 1) -> NoReturn:
    """End the program with one line."""
    print(f"error: {line}", file=sys.stderr)
    sys.exit(status)


def check_arguments(arguments: list[str]) -> None:
    """Answer `--help` and `--version`; refuse arguments that Hydra wrongly accepts or reports badly.

    Raises:
        ConfigError: names what is wrong.
    """
    parser = get_args_parser()
    parser.allow_abbrev = False
    parser.error = stop
    parser.set_defaults(version=False)
    next(
        action for action in parser._actions if action.dest == "version"
    ).version = f"sparse_train {sparse_train.__version__}"
    given = parser.parse_args(arguments)
    if given.help:
        print(usage(given.config_dir))
        sys.exit(0)
    require(given.experimental_rerun is None, "--experimental-rerun", given.experimental_rerun, "would unpickle a file")
    package = given.config_path is not None and "://" in given.config_path
    require(not package, "--config-path", given.config_path, "must be a directory")
    for override in given.overrides:
        check_override(override, given.config_dir)


def check_override(argument: str, own: str | None = None) -> None:
    """Refuse anything but KEY=VALUE, and values of a group that name no option, such as `dst=null`.

    Raises:
        ConfigError: lists the options of a group, those of a directory of one's own (`--config-dir`) among them.
    """
    name, given, text = argument.partition("=")
    group = name.lstrip("+~")
    try:
        value = OverridesParser.create().parse_override(argument).value()
    except HydraException as error:
        raise ConfigError(
            name, text, "cannot be read; write KEY=VALUE, and quote what has spaces or brackets"
        ) from error
    if not (given and group and (CONF / group).is_dir()):
        return
    words = value if isinstance(value, list) and not name.startswith("~") else [value]
    right = f"must be one of {', '.join(options(group, own))}"
    require(all(isinstance(word, str | Sweep) for word in words), group, text, right)


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def run(cfg: DictConfig) -> None:
    ranks, where = Ranks(), ""
    try:
        check(cfg)
        ranks = processes()
        require_same_settings(cfg, ranks)
        record = Record(cfg.runs_dir, run_id(cfg), fresh=cfg.resume == "fresh", ranks=ranks)
        where = f"{record.dir}: "
        if trained := not ranks.from_main(lambda: record.finished):
            instantiate(cfg, "task")(cfg, record)
        else:
            look_again(record)
    except HeldError as error:
        no_result(str(error), HELD)
    except torch.OutOfMemoryError:
        no_result(f"{where}out of GPU memory; try a smaller batch_size or amp=bf16")
    except (ConfigError, DivergedError, MaskMismatchError, OmegaConfBaseException, OSError, MemoryError) as error:
        no_result(one_line(error))
    except RuntimeError as error:
        first = str(error).strip().partition("\n")[0]
        if cfg.compile and type(error).__module__.startswith(COMPILERS):
            no_result(f"compile={str(cfg.compile).lower()}: {first}; compile=false needs no compiler")
        if ranks.world == 1:
            raise
        no_result(f"rank {ranks.rank} of {ranks.world}: {first}")
    if ranks.main:
        say(closing_line(record.content) + ("" if trained else "; trained earlier"))
        alone = trained and HydraConfig.get().mode == RunMode.RUN and ranks.world == 1
        scored = alone and "test_acc" in record.content.get("final", {})
        if scored and (following := next_command(record.content, sys.argv[1:])):
            say(f"next: {following}")
        print(record.dir, flush=True)


def next_command(record: dict, arguments: list[str]) -> str | None:
    """The command that trains this run's baseline. If this run is the baseline, the command trains its next seed.

    None where there is no baseline: growth by corrected gradients needs a correction.
    """
    if (record["config"].get("dst") or {}).get("gradient") == "corrected":
        return None
    optimizer = [word for word in arguments if METHOD.match(word)]
    baseline = record.get("choices", {}).get("optimizer") == "sgd" and optimizer in ([], ["optimizer=sgd"])
    change = f"seed={record['config']['seed'] + 1}" if baseline else "optimizer=sgd"
    dropped = [word for word in arguments if re.match(r"\+*seed=", word)] if baseline else optimizer
    dropped += [word for word in arguments if re.match(r"\+*resume=", word)]  # fresh would delete a finished run
    return shlex.join(["python", "-m", "sparse_train", *(word for word in arguments if word not in dropped), change])


def processes() -> Ranks:
    """Connect the processes of this run.

    Raises:
        ConfigError: if they cannot connect to each other.
    """
    try:
        return join()
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
    leave()
