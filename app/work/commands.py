"""Command lines of geodino for what is asked on a page: the same that the page shows to be copied, and the jobs run."""

from pathlib import Path

from app.store.workspace import Workspace


def _shared(workspace: Workspace) -> list[str]:
    return ["--backbone", workspace.backbone] if workspace.backbone else []


def features(workspace: Workspace, scene: str, output: Path) -> list[str]:
    """Arguments of ``geodino features``."""
    dask = ["--dask", workspace.dask] if workspace.dask else []
    return ["features", scene, "-o", str(output), *_shared(workspace), *dask]


def segment(
    workspace: Workspace,
    scene: str,
    output: Path,
    *,
    labels: Path | None = None,
    field: str | None = "class",
    clusters: int | None = None,
    model: Path | None = None,
    save_model: Path | None = None,
    vector: Path | None = None,
) -> list[str]:
    """Arguments of ``geodino segment`` from labels, a number of clusters or a saved model."""
    arguments = ["segment", scene, "-o", str(output)]
    if labels:
        arguments += ["--labels", str(labels), *(["--field", field] if field else [])]
    if clusters:
        arguments += ["--clusters", str(clusters)]
    if model:
        arguments += ["--model", str(model)]
    if save_model:
        arguments += ["--save-model", str(save_model)]
    if vector:
        arguments += ["--vector", str(vector)]
    return arguments + _shared(workspace)


def change(
    workspace: Workspace,
    before: str,
    after: str,
    output: Path,
    *,
    score: Path,
    threshold: float | None = None,
    vector: Path | None = None,
) -> list[str]:
    """Arguments of ``geodino change``."""
    arguments = ["change", before, after, "-o", str(output), "--score", str(score)]
    arguments += ["--threshold", "auto" if threshold is None else f"{threshold:.6g}"]
    if vector:
        arguments += ["--vector", str(vector)]
    return arguments + _shared(workspace)


def similar(workspace: Workspace, scene: str, output: Path, *, at: tuple[float, float]) -> list[str]:
    """Arguments of ``geodino similar`` for a place in the scene's own coordinates."""
    return ["similar", scene, f"--at={at[0]:.10g},{at[1]:.10g}", "-o", str(output), *_shared(workspace)]
