"""`python -m sparse_train KEY=VALUE ...`: train one sparse network, leave one record, print where it is.

Options compose from the groups in `conf/`; with `--multirun`, comma-separated values make a sweep.
"""

from pathlib import Path

import hydra
from hydra.errors import CompactHydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from sparse_train.config import check, run_id
from sparse_train.errors import ConfigError, DivergedError
from sparse_train.record import Record
from sparse_train.targets import instantiate

CONF = Path(__file__).parent.parent / "conf"


class RunError(CompactHydraException):
    """Printed by Hydra as one line, without a traceback; the exit code is 1 and a sweep goes on."""


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> None:
    try:
        check(cfg)
        record = Record(cfg.runs_dir, run_id(cfg), fresh=cfg.resume == "fresh")
        if not record.finished:
            instantiate(cfg, "task")(cfg, record)
        elif record.status == "diverged":
            raise DivergedError(f"{record.dir}: {record.content['reason']}")
    except (ConfigError, DivergedError, OmegaConfBaseException) as error:
        raise RunError(f"error: {error}") from error
    print(record.dir)


if __name__ == "__main__":
    main()
