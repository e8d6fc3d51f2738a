"""Typed configurations from TOML; an unknown key is an error."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vesalius.core.errors import ConfigError

Probability = Annotated[float, Field(ge=0, le=1)]


class Config(BaseModel):
    """Base of every configuration: immutable, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Reads a configuration from a TOML file.

        Raises:
            ConfigError: The file is missing, is not TOML, or has an unknown key or a value of the wrong type.
        """
        try:
            with Path(path).open("rb") as file:
                values = tomllib.load(file)
        except OSError as error:
            raise ConfigError(f"cannot be read ({error.strerror})", path=path) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"is not valid TOML ({error})", path=path) from error
        return cls.from_dict(values, path)

    @classmethod
    def from_dict(cls, values: dict[str, object], path: str | Path | None = None) -> Self:
        """Builds a configuration from plain values; ``path`` is named in the error."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "the configuration"
            raise ConfigError(f"{key}: {first['msg']}", path=path) from error
