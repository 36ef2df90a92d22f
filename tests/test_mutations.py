"""The list of mutations stays true to the code; carrying them out is ``python -m tests.mutations``."""

from __future__ import annotations

import pytest

from tests.mutations import MUTATIONS, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_what_a_mutation_changes_and_who_notices_are_there(mutation: Mutation) -> None:
    text = (ROOT / "threedistill" / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1, f"{mutation.file}: adapt the mutation to the new code"
    assert mutation.old != mutation.new
    file, _, name = mutation.test.partition("::")
    assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")
