"""`python -m sparse_train KEY=VALUE ...`: train one sparse network, leave one record.

Options compose from the groups in `conf/`; with `--multirun`, comma-separated values make a sweep. The last line to
stdout is the run's directory alone, for scripts; stderr says before it what the run came to.
"""

import sys
from pathlib import Path

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Sweep
from hydra.errors import CompactHydraException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from sparse_train import multirun
from sparse_train.config import check, run_id
from sparse_train.distributed import join, leave
from sparse_train.errors import ConfigError, DivergedError, HeldError, MaskMismatchError, require
from sparse_train.finished import look_again
from sparse_train.log import closing_line, say
from sparse_train.record import Record
from sparse_train.targets import instantiate

CONF = Path(__file__).parent.parent / "conf"
HELD = 75  # the exit status of a run that another process is training: EX_TEMPFAIL


class RunError(CompactHydraException):
    """Printed by Hydra as one line, without a traceback; the exit code is 1 and a sweep goes on."""


def main() -> None:
    """The command line."""
    try:
        for argument in sys.argv[1:]:
            check_group(argument)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    multirun.install()
    run()


def check_group(argument: str) -> None:
    """Refuse what is no word where an option of a group belongs, such as `dst=null`: Hydra would end with a traceback.

    Raises:
        ConfigError: lists the options.
    """
    name, given, text = argument.partition("=")
    group = name.lstrip("+~")
    if not (given and group and (CONF / group).is_dir()):
        return
    try:
        value = OverridesParser.create().parse_override(argument).value()
    except HydraException:  # which Hydra says well
        return
    options = ", ".join(sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml")))
    words = value if isinstance(value, list) and not name.startswith("~") else [value]
    require(all(isinstance(word, str | Sweep) for word in words), group, text, f"must be one of {options}")


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def run(cfg: DictConfig) -> None:
    try:
        check(cfg)
        ranks = join()
        record = Record(cfg.runs_dir, run_id(cfg), fresh=cfg.resume == "fresh", ranks=ranks)
        if not ranks.decide(lambda: record.finished):
            instantiate(cfg, "task")(cfg, record)
        else:
            look_again(record)
    except HeldError as error:
        if HydraConfig.get().mode == RunMode.RUN:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(HELD)
        raise RunError(f"error: {error}") from error
    except torch.OutOfMemoryError as error:
        raise RunError(f"error: {record.dir}: out of GPU memory; try a smaller batch_size or amp=bf16") from error
    except (ConfigError, DivergedError, MaskMismatchError, OmegaConfBaseException, OSError, MemoryError) as error:
        raise RunError(f"error: {error}") from error
    except RuntimeError as error:
        if ranks.world == 1:
            raise
        raise RunError(f"error: rank {ranks.rank} of {ranks.world}: {str(error).splitlines()[0]}") from error
    if ranks.main:
        say(closing_line(record.content))
        print(record.dir, flush=True)


if __name__ == "__main__":
    main()
    leave()
