"""A feature cube of one scene, with the picture that goes with it: what `geodino features` does."""

from pathlib import Path

from geodino.dense.extraction import Extraction, check_outputs, draw, lacks_quicklook
from geodino.dense.settings import DenseSettings
from geodino.jobs.run_options import RunOptions
from tiles.progress import Progress
from tiles.scenes.opening import open_scene
from tiles.scenes.scene import Scene
from tiles.writing.outputs import check_not_input, locked


def make_features(
    scene: str | Path | Scene,
    output: Path,
    run: RunOptions,
    *,
    settings: DenseSettings | None = None,
    dtype: str = "auto",
    quicklook: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make a cube; ``geodino.features`` says of what, and opens it.

    Returns:
        Where the cube is.

    Raises:
        InputError: The scene lacks a band of the backbone, a file is damaged, or an unfinished run with other inputs or
            settings lies where the output goes.
        OutputError: An output exists or cannot be written.
    """
    output = output.absolute()
    check_outputs(output, dtype=dtype, quicklook=quicklook, overwrite=run.overwrite)
    scene = scene if isinstance(scene, Scene) else open_scene(scene)
    check_not_input((output, quicklook), scene)
    keep = not run.overwrite and lacks_quicklook(output, quicklook)
    with locked(output, quicklook), run.engine() as engine:
        plan = Extraction.plan(scene, engine, output, settings or DenseSettings(), dtype=dtype)
        if keep:
            plan.check_made()
        else:
            plan.run(overwrite=run.overwrite, progress=progress)
        if quicklook is not None:
            draw(output, quicklook, overwrite=run.overwrite)
    return output
