"""The pages of the web map; each module has one function that draws its page."""

from collections.abc import Callable
from dataclasses import dataclass

from app.pages import jobs, scenes


@dataclass(frozen=True)
class Page:
    """An entry of the navigation."""

    title: str
    icon: str
    path: str
    show: Callable[[], None]
    default: bool = False


PAGES = (
    Page("Scenes", ":material/layers:", "scenes", scenes.show, default=True),
    Page("Jobs", ":material/pending_actions:", "jobs", jobs.show),
)
