"""How a command runs: which backbone, where, in what arithmetic, and whether it may replace outputs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from tiles.errors import InputError

if TYPE_CHECKING:
    from geodino.backbones.backbone import Backbone
    from geodino.dense.engine import Engine
    from geodino.dense.settings import DenseSettings
    from geodino.dense.tokens import TokenSource
    from tiles.scenes.scene import Scene


class RunKeywords(TypedDict, total=False):
    """The keywords that every public function takes beside its own; see ``RunOptions`` for what they mean."""

    backbone: "str | Path | Backbone | None"
    device: str
    precision: str
    dask: str | None
    overwrite: bool


@dataclass(frozen=True)
class RunOptions:
    """How a command runs, from the command line or a function's keywords to the engine.

    Attributes:
        backbone: A backbone, or what ``load_backbone`` takes: a timm name, a folder or file that ``pretrain`` wrote, a
            checkpoint in Meta's layout; None for the packaged one.
        device: Where a backbone that is not loaded yet shall run: ``auto``, ``cpu`` or ``cuda``.
        precision: What it shall compute in: ``auto``, ``fp32`` or ``bf16``.
        dask: Address of a Dask scheduler whose workers run the backbone; it must be one that they can load by name.
        overwrite: Replace existing outputs, each when its successor is whole, and an unfinished run with other inputs
            or settings; an unfinished run of the same inputs and settings goes on.
    """

    backbone: "str | Path | Backbone | None" = None
    device: str = "auto"
    precision: str = "auto"
    dask: str | None = None
    overwrite: bool = False

    @property
    def keywords(self) -> RunKeywords:
        """The same as keywords of a public function."""
        return RunKeywords(
            backbone=self.backbone,
            device=self.device,
            precision=self.precision,
            dask=self.dask,
            overwrite=self.overwrite,
        )

    def check_cubes(self, cubes: Sequence[str | Path], **others: object) -> None:
        """Refuse beside cubes of features the options that a cube brings itself.

        Args:
            cubes: The cubes; nothing is refused where there are none.
            **others: Options of the command that a cube brings too, None or empty where not given.

        Raises:
            InputError: One of them is given.
        """
        names = ("backbone", "device", "precision", "dask")
        given = [name for name, value in others.items() if value not in (None, ())]
        given += [name for name in names if getattr(self, name) != getattr(RunOptions, name)]
        if cubes and given:
            raise InputError(
                f"the tokens are those of {' and '.join(map(str, cubes))}: "
                f"leave {', '.join(f'--{name}' for name in given)} out"
            )

    def load(self) -> "Backbone":
        """The backbone, loaded here where it is not loaded yet.

        Raises:
            InputError: It cannot be found, read or does not fit.
        """
        if not isinstance(self.backbone, str | Path | None):
            return self.backbone
        from geodino.backbones.backbone import load_backbone

        return load_backbone(self.backbone, device=self.device, precision=self.precision)

    @contextmanager
    def engine(self) -> "Iterator[Engine]":
        """What runs the backbone, for a ``with``: this process, or the cluster at ``dask``.

        Raises:
            InputError: See ``load``; or no scheduler with workers answers at the address.
        """
        if self.dask is None:
            from geodino.dense.engine import LocalEngine

            yield LocalEngine(self.load())
            return
        from geodino.jobs.cluster import Cluster

        with Cluster(self.dask, self) as cluster:
            yield cluster

    @contextmanager
    def tokens(
        self,
        scene: "Scene | None",
        beside: Path,
        *,
        features: str | Path | None = None,
        settings: "DenseSettings | None" = None,
    ) -> "Iterator[TokenSource]":
        """Where a map's tokens come from, for a ``with``: a cube where one is given, else the backbone.

        Args:
            scene: The scene; None for a cube alone.
            beside: Output beside which tokens are kept while it is made.
            features: A cube of the scene.
            settings: How windows are laid where the backbone is run.

        Raises:
            InputError: The cube does not fit the scene, options that it has no use for are given beside it, or the
                backbone cannot be had.
        """
        from geodino.dense.settings import DenseSettings
        from geodino.dense.tokens import tokens_from_cube, tokens_from_scene
        from tiles.writing.outputs import part_of

        if features is not None:
            self.check_cubes((features,))
            yield tokens_from_cube(Path(features), scene)
            return
        if scene is None:
            raise ValueError("neither a scene nor a cube")
        with self.engine() as engine:
            folder = part_of(beside, ".tokens")
            yield tokens_from_scene(scene, engine, settings or DenseSettings(), folder, overwrite=self.overwrite)
