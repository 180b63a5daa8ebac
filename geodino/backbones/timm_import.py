"""timm without PyTorch's compiler, whose import costs two thirds of torch's own: take ``timm`` from here.

While timm is imported, it and torchvision ask two functions of the compiler, ``torch._dynamo``, that few models call.
Stand-ins answer, which import the compiler when such a model runs; asked for anything else they give way to it at once.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from types import ModuleType
from typing import Any

import torch  # noqa: F401 - before the stand-ins, which are none for its own use

_COMPILER, _UTILS = "torch._dynamo", "torch._dynamo.utils"


class _StandIn(ModuleType):
    """A module of functions; any other attribute is the real module's, which takes the stand-ins' places."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and (self.__name__, name) != (_COMPILER, "__path__"):  # asked by whoever lists modules
            raise AttributeError(name)
        _give_way()
        return getattr(import_module(self.__name__), name)


def _give_way() -> None:
    for name in (_COMPILER, _UTILS):
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


def _is_compile_supported(device_type: str) -> bool:
    return bool(import_module(_UTILS).is_compile_supported(device_type))


def _disable(function: Callable[..., Any], recursive: bool = True, **reason: Any) -> Callable[..., Any]:
    """A function that is left out of compiled code, by the mark that the compiler itself puts on it."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return import_module(_COMPILER).disable(function, recursive, **reason)(*args, **kwargs)

    run._torchdynamo_disable = True  # type: ignore[attr-defined]
    return run


@contextmanager
def _compiler_asked_when_needed() -> Iterator[None]:
    if _COMPILER not in sys.modules:
        compiler, utils = _StandIn(_COMPILER), _StandIn(_UTILS)
        vars(compiler)["disable"] = _disable
        vars(utils)["is_compile_supported"] = _is_compile_supported
        sys.modules |= {_COMPILER: compiler, _UTILS: utils}
    try:
        yield
    finally:
        _give_way()


with _compiler_asked_when_needed():
    import timm

__all__ = ["timm"]
