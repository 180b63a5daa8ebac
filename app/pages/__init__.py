"""The pages of the web map; the module of each has one function, ``show``, that draws it.

Drawing a page needs neither PyTorch nor scikit-learn: what does is imported where it is used, and `app.work.warm_up`
has it ready by then.
"""

from collections.abc import Callable
from dataclasses import dataclass

from app.pages import change, explore, jobs, scenes, segment, training


@dataclass(frozen=True)
class Page:
    """An entry of the navigation.

    Attributes:
        title: What the link says.
        icon: Streamlit's name of the symbol before it.
        show: Draws the page.
    """

    title: str
    icon: str
    show: Callable[[], None]


PAGES = (
    Page("Scenes", ":material/layers:", scenes.show),
    Page("Explore", ":material/travel_explore:", explore.show),
    Page("Segment", ":material/category:", segment.show),
    Page("Change", ":material/difference:", change.show),
    Page("Jobs", ":material/pending_actions:", jobs.show),
    Page("Training", ":material/model_training:", training.show),
)
