"""One geodino command: the line that is shown, and the run that it stands for."""

from pathlib import Path

import pytest
import typer

from geodino.cli import build
from geodino.jobs import command
from geodino.jobs.command import Command
from tiles.errors import InputError


def test_the_line_can_be_copied_into_a_shell() -> None:
    made = Command.of("segment", "a b.tif", output=Path("o.tif"), save_model="m.safetensors", clusters=None)
    assert made.line == "geodino segment 'a b.tif' -o o.tif --save-model m.safetensors"
    assert Command.of("tile", "s.tif", overwrite=True).line == "geodino tile s.tif --overwrite"
    assert Command.of("tile", "s.tif", overwrite=False).line == "geodino tile s.tif"


def test_a_value_that_looks_like_an_option_is_none() -> None:
    made = Command.of("similar", "s.tif", at="-2,3", output="o.tif")
    known = typer.main.get_command(build()).commands["similar"]  # type: ignore[attr-defined]
    context = known.make_context("similar", list(made.arguments[1:]))
    assert context.params["at"] == ["-2,3"]


def test_it_says_everything_to_its_log_in_a_session_of_its_own(tmp_path: Path) -> None:
    with (tmp_path / "log.txt").open("wb") as log:
        child = Command.of("models", nonsense=True).start(log)
        assert child.wait() == 2
    said = (tmp_path / "log.txt").read_text()
    assert "--nonsense" in said and "Traceback" not in said


@pytest.mark.parametrize(("status", "error"), [(0, None), (2, InputError), (130, KeyboardInterrupt)])
def test_a_run_on_the_terminal_ends_as_the_command_did(
    status: int, error: type[BaseException] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "PROGRAM", ("python3", "-c", f"raise SystemExit({status})"))
    if error is None:
        Command.of("models").run()
        return
    with pytest.raises(error):
        Command.of("models").run()
