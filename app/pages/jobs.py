"""Jobs: what waits, runs and has ended, on this server, whoever asked for it."""

import time
from pathlib import Path

import streamlit as st

from app.pages.workbench import REFRESH_S, offer, plain
from app.store.session import session
from app.store.workspace import Workspace, current
from app.work.jobs import GOING, Job, State, Status
from geodino.jobs.command import Command

MOST_SHOWN = 50
COLORS = {
    State.queued: "gray",
    State.running: "blue",
    State.done: "green",
    State.failed: "red",
    State.cancelled: "orange",
    State.interrupted: "orange",
}


def show() -> None:
    """Draw the page."""
    st.subheader("Jobs")
    st.caption(
        "Jobs run in processes of their own. Closing this tab or restarting the server does not end them; "
        "one that was cancelled or interrupted goes on where it was."
    )
    _list()


@st.fragment(run_every=REFRESH_S)
def _list() -> None:
    workspace = current()
    found = workspace.jobs.jobs()
    if not found:
        st.info(
            "No job yet. Segment a scene or compare two dates, and the work shows up here.",
            icon=":material/pending_actions:",
        )
    for job in found[:MOST_SHOWN]:
        _one(workspace, job, workspace.jobs.status(job.id))
    if len(found) > MOST_SHOWN:
        st.caption(f"and {len(found) - MOST_SHOWN} older ones in {plain(str(workspace.jobs.folder))}")


def _one(workspace: Workspace, job: Job, status: Status) -> None:
    with st.container(border=True):
        st.markdown(f"**{plain(job.title)}**  \n{_when(job, status)}")
        with st.container(horizontal=True, vertical_alignment="center"):
            st.badge(status.state.value, color=COLORS[status.state])
            if status.state in GOING:
                if st.button("Cancel", key=f"jobs-cancel-{job.id}", icon=":material/cancel:"):
                    workspace.jobs.cancel(job.id)
                    st.rerun(scope="fragment")
            else:
                again = "Run again" if status.state is State.done else "Go on"
                if st.button(again, key=f"jobs-again-{job.id}", icon=":material/replay:"):
                    _again(workspace, job, status)
                    st.rerun(scope="fragment")
            rasters = [path for path in job.outputs if path.endswith(".tif")]
            shown = status.state is State.done and bool(rasters)
            if shown and st.button("Show on the map", key=f"jobs-show-{job.id}", icon=":material/layers:"):
                for sentence in session().show_results(workspace, job):
                    st.toast(plain(sentence))
                st.toast("On the map of the other pages now.")
        if status.state is State.running:
            share = workspace.jobs.progress(job.id)
            st.progress(share or 0.0, text=None if share is None else f"{share:.0%}")
        more = st.expander("Command, log and files", key=f"jobs-more-{job.id}", on_change="rerun")
        if more.open:  # the logs of fifty jobs are not read every two seconds for nobody
            with more:
                st.code(job.command.line, language="bash", wrap_lines=True)
                st.code(workspace.jobs.log(job.id)[-6000:] or "nothing said yet", language=None, height=180)
                offer(workspace, [Path(path) for path in job.outputs])


def _again(workspace: Workspace, job: Job, status: Status) -> None:
    """Queue the job again; a finished one is made anew, which it must be told."""
    mine = session()
    if status.state is State.done:
        flag = () if "--overwrite" in job.arguments else ("--overwrite",)
        mine.submit(workspace, job.title, Command((*job.arguments, *flag)), [Path(path) for path in job.outputs])
        return
    workspace.jobs.resume(job.id)
    if job.id not in mine.awaited:
        mine.awaited.append(job.id)


def _when(job: Job, status: Status) -> str:
    asked = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.created))
    if not status.started:
        return f"asked for at {asked}"
    took = (status.ended or time.time()) - status.started
    where = f" on {plain(status.machine)}" if status.machine else ""
    return f"asked for at {asked}, {'took' if status.ended else 'running for'} {_duration(took)}{where}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
