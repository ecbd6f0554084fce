"""The pages on what a value means say the truth: their examples run."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from featurestore.aggregates import AGGREGATES

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("name", ["semantics.md", "aggregates.md"])
def test_the_examples_of_the_page_run(name: str) -> None:
    page = DOCS / name
    text = page.read_text()
    blocks = list(re.finditer(r"^```pycon\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    assert len(blocks) > 6
    scope: dict[str, object] = {}
    for block in blocks:
        line = text[: block.start(1)].count("\n")
        test = doctest.DocTestParser().get_doctest(block[1], scope, name, str(page), line)
        test.globs = scope
        failed, _ = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(test, clear_globs=False)
        assert not failed, f"{name}: see the report above"


def test_every_aggregate_is_described_and_shown() -> None:
    text = (DOCS / "aggregates.md").read_text()
    for name in AGGREGATES:
        assert f"`{name}(" in text, name
        assert f"fs.{name}(" in text, name
