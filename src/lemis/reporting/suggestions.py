"""The page of ``lemis suggest``: which scans to label next, each with its reason, picture and where its label goes."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from lemis.reporting.examples import one_slice as one_slice
from lemis.reporting.figures.subject_map import subject_map as subject_map
from lemis.reporting.figures.svg import structure_colours as structure_colours
from lemis.reporting.templating import page
from lemis.work_files.suggestions import Suggestions

CAUTION = (
    "Whether these beat subjects drawn at random is not known of your data; published gains over random are small "
    "where there are any. Scores on subjects that were chosen, by whatever way but random, are not those of the others."
)


def render(record: Suggestions, *, title: str, pictures: Mapping[str, bytes], places: str, again: str) -> str:
    """The whole page.

    Args:
        record: What was suggested.
        title: Name of the data set.
        pictures: PNG by scan.
        places: An ``<svg>`` element of all subjects.
        again: The command that learns from the new labels.
    """
    structures = next((list(one.disagreement) for one in record.suggestions if one.disagreement), [])
    return page(
        "suggestions.html",
        record=record, title=title, map=Markup(places), again=again, caution=CAUTION,
        colours=structure_colours(structures), pictures=pictures,
    )  # fmt: skip
