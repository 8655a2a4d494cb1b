"""Templates of pages: every text that they put out is escaped, after what would act upon the page was made visible.

Texts come from others: nothing in them may become markup or turn the direction of writing. Markup was written here.
"""

from collections.abc import Callable

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from meddistill.runtime.words import visible


def environment(text: Callable[[str], str]) -> Environment:
    """The templates that ``text`` gives by name; one that asks for what it was not told is an error."""
    return Environment(
        autoescape=True,
        finalize=_visible,
        loader=FunctionLoader(text),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )


def _visible(value: object) -> object:
    """Called for whatever a template puts out."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
