"""The templates of all pages: one header, one way to get about, one footer, and nothing fetched from anywhere."""

from __future__ import annotations

import base64
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lemis.reporting import review
from lemis.reporting.numbers import listed, number, span

# What a page may load: nothing but what stands in it.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def page(template: str, *, policy: str = POLICY, **shown: Any) -> str:
    """A whole page.

    Args:
        template: Its file in ``templates/``, which extends ``page.html``.
        policy: What it may load, as a Content-Security-Policy.
        **shown: What stands in it.
    """
    environment = Environment(
        loader=PackageLoader("lemis.reporting"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        number=number, listed=listed, span=span, picture=_picture, svg=Markup, probably=review.expected,
        verdict=review.in_words,
    )  # fmt: skip
    return environment.get_template(template).render(policy=policy, **{"lemis": version("lemis"), **shown})


def _picture(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
