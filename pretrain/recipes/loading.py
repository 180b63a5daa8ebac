"""From YAML and ``KEY=VALUE`` pairs to a checked recipe.

A recipe is laid over the defaults of its ``method`` (dino, dinov2, dinov3) and of its ``phase`` (pretrain, gram,
hires), and pairs go on top; a method or phase that a pair names goes over the recipe. An unknown key is an error that
names the nearest one.
"""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pretrain.recipes.recipe import Recipe
from pretrain.recipes.schedule import Schedule
from tiles.errors import InputError

BASES = "method", "phase"
_FOLDER = files("pretrain") / "recipes"
Model = TypeVar("Model", bound=BaseModel)


def packaged() -> list[str]:
    """Names of the recipes that come with geodino."""
    return sorted(path.name.removesuffix(".yaml") for path in _FOLDER.iterdir() if path.name.endswith(".yaml"))


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by name or from a file and lay ``KEY=VALUE`` pairs over it.

    Args:
        source: Name of a packaged recipe or path of a YAML file.
        overrides: Such as ``optimizer.lr=1e-3`` or ``crops.local_count=4``; values are YAML.

    Raises:
        InputError: If there is no such recipe, a key is unknown, or a value does not fit.
    """
    name = str(source)
    if Path(name).suffix in (".yaml", ".yml") or "/" in name:
        content, label = read_recipe_file(Path(name)), Path(name).stem
    elif name in packaged():
        content, label = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text()), name
    else:
        raise InputError(f"there is no recipe {name!r}; choose one of {', '.join(packaged())} or give a YAML file")
    return resolve([{"name": label} | content, from_pairs(overrides)], name)


def read_recipe_file(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        InputError: If there is no such file or it holds no mapping.
    """
    if not os.path.isfile(path):
        raise InputError(f"there is no recipe file {path}; packaged recipes are {', '.join(packaged())}")
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise InputError(f"recipe {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"recipe {path} must be a mapping of keys to values")
    return content


def from_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """The nested mapping of ``KEY=VALUE`` pairs, whose keys have dots and whose values are YAML.

    Raises:
        InputError: If a pair has no key or no value.
    """
    result: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError(f"--set takes KEY=VALUE, not {pair!r}")
        nested: Any = _value(value)
        for part in reversed(key.strip().split(".")):
            nested = {part: nested}
        result = merged(result, nested)
    return result


def _value(text: str) -> Any:
    value = yaml.safe_load(text)
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as a string
        try:
            return float(value)
        except ValueError:
            pass
    return value


def resolve(layers: Sequence[Mapping[str, Any]], source: str) -> Recipe:
    """Lay mappings over each other and check the result.

    The defaults of a method or phase go right below the last layer that names it: a recipe file changes what its own
    method says, while ``--set phase=gram`` changes what the recipe says.

    Args:
        layers: From the lowest to the highest.
        source: Name used in messages.

    Raises:
        InputError: If a key is unknown or a value does not fit.
    """
    whole: dict[str, Any] = {}
    for number, layer in enumerate(layers):
        for base in BASES:
            naming = [n for n, other in enumerate(layers) if base in other] or [0]
            path = _FOLDER / base / f"{layer.get(base, Recipe.model_fields[base].default)}.yaml"
            if naming[-1] == number and path.is_file():
                whole = merged(whole, yaml.safe_load(path.read_text()))
        whole = merged(whole, layer)
    return checked(Recipe, whole, source)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one nested mapping over another, key by key."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def checked(model: type[Model], given: Mapping[str, Any], source: str) -> Model:
    """The recipe that a mapping gives.

    Raises:
        InputError: If a key is unknown or a value does not fit.
    """
    _check_keys(given, model, list(_all_keys(model)), source)
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise InputError(f"recipe {source}: {where + ': ' if where else ''}{message}") from None


def _check_keys(
    given: Mapping[str, Any], model: type[BaseModel], known: Sequence[str], source: str, prefix: str = ""
) -> None:
    for key, value in given.items():
        field = model.model_fields.get(key)
        if field is None:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.4)
            close = difflib.get_close_matches(str(key), model.model_fields, n=1, cutoff=0.6)
            hint = f"; did you mean {prefix + close[0] if close else near[0]}?" if close or near else ""
            raise InputError(f"recipe {source}: unknown key {prefix}{key}{hint}")
        inner = field.annotation
        if isinstance(value, Mapping) and isinstance(inner, type) and issubclass(inner, BaseModel):
            _check_keys(value, inner, known, source, f"{prefix}{key}.")


def _all_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and inner is not Schedule:
            yield from _all_keys(inner, f"{prefix}{name}.")
