"""The gate of every configuration: Hydra composes, and nothing is constructed before all of it has been checked."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import hydra._internal.hydra as program
import hydra._internal.utils as reporting
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from sparse_train.errors import require
from sparse_train.options.hydra_node import check_hydra
from sparse_train.options.interpolations import check_interpolations, check_text, strings
from sparse_train.options.targets import check_targets


def check_composed(cfg: DictConfig) -> None:
    """Refuse what could run code or copy a secret, anywhere in a composed configuration, Hydra's own part included.

    Raises:
        ConfigError: names the key, and what would be right.
    """
    content = OmegaConf.to_container(cfg, resolve=False)
    hydra = content.pop("hydra", None)
    for key, value in content.items():
        check_targets(value, key)
    if hydra is not None:
        check_hydra(cfg)
        # Skip the command line's overrides, display-only nodes, and nodes already checked as Hydra's own.
        for written in ("overrides", "help", "hydra_help", "hydra_logging", "job_logging"):
            hydra.pop(written, None)
        hydra["job"].pop("override_dirname", None)
        content["hydra"] = hydra
    check_interpolations(content)


class CheckedRepository(CachingConfigRepository):
    """The files of one configuration. Their defaults lists choose files, so they are checked before those are read."""

    def load_config(self, config_path: str) -> ConfigResult | None:
        loaded = super().load_config(config_path)
        for default in (loaded and loaded.defaults_list) or []:
            for _, text in strings(vars(default)):
                check_text(f"defaults of {config_path}", text)
        return loaded


class CheckedLoader(ConfigLoaderImpl):
    """Hydra's loader, through which every configuration comes: of a run, a sweep, each of its jobs, `--cfg`, `--info`.

    Jobs in other processes have it from the launcher.
    """

    def load_configuration(self, *args, **kwargs) -> DictConfig:
        cfg = super().load_configuration(*args, **kwargs)
        check_composed(cfg)
        return cfg

    def _parse_overrides_and_create_caching_repo(self, config_name, overrides):
        parsed = OverridesParser.create().parse_overrides(overrides=overrides)
        for override in parsed:
            check_text(override.key_or_group, override.input_line.partition("=")[2])
        repository = CheckedRepository(self.repository)
        places = [override.value() for override in parsed if override.get_key_element() == "hydra.searchpath"]
        primary = repository.load_config(config_name) if config_name is not None else None
        if primary is not None and OmegaConf.is_dict(primary.config):
            places.append(OmegaConf.select(primary.config, "hydra.searchpath"))
        for place in chain.from_iterable(filter(None, places)):
            scheme = str(place).rpartition("://")[0]
            require(scheme in ("", "file"), "hydra.searchpath", place, "must be directories")  # pkg:// imports
        self._process_config_searchpath(config_name, parsed, repository)
        return parsed, repository


@contextmanager
def checked() -> Iterator[None]:
    """Inside, Hydra's program composes by `CheckedLoader`, and raises what goes wrong instead of printing it."""
    loader, report = program.ConfigLoaderImpl, reporting.run_and_report
    program.ConfigLoaderImpl, reporting.run_and_report = CheckedLoader, lambda call: call()
    try:
        yield
    finally:
        program.ConfigLoaderImpl, reporting.run_and_report = loader, report
