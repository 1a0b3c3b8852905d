"""What every method file has: a factory of its own name that works with nothing given."""

from __future__ import annotations

import inspect
import sys


def first_line(doc):
    return (doc or "").partition("\n")[0].strip()


def test_a_factory_says_in_one_line_what_it_makes(factory):
    assert first_line(factory.__doc__).endswith((".", ":"))


def test_a_method_file_says_in_one_line_what_the_idea_is(factory):
    line = first_line(sys.modules[factory.__module__].__doc__)
    assert len(line) > 20
    assert line != first_line(factory.__doc__)


def test_a_factory_works_with_nothing_given_and_makes_what_it_says(factory):
    returns = inspect.get_annotations(factory, eval_str=True)["return"]
    made = factory()
    assert isinstance(made, returns) if inspect.isclass(returns) else callable(made)


def test_every_file_beside_a_type_is_a_method_of_that_type(member):
    module, returns = member
    factory = getattr(module, module.__name__.rpartition(".")[2])
    assert inspect.get_annotations(factory, eval_str=True)["return"] == returns
