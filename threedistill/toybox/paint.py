"""How the parts of a Toybox object get their colours: slots that are filled when the colours are known.

A mesh of the world carries the slot of every vertex. What a slot looks like follows from the colours of the scene
(:func:`resolve`), so pictures of one shape can be coloured anew, as often as wanted, without building it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["ACCESSORY", "CLEAR", "MAIN", "MARKS", "RGB", "Coat", "Paint", "Slot", "resolve"]

RGB = tuple[float, float, float]
#: Squared sRGB distance from which two colours differ clearly.
CLEAR = 0.18


@dataclass(frozen=True)
class Paint:
    """The first of some colours that differs clearly from another.

    Attributes:
        choices: sRGB; none means the colour that ``versus`` names itself.
        versus: ``main``, ``marks`` (stripes and spots), ``accessory``, a part of the same object, or None: then the
            first choice is taken.
    """

    choices: tuple[RGB, ...] = ()
    versus: str | None = None

    def color(self, other: RGB | None) -> RGB:
        """The choice beside ``other``."""
        if not self.choices:
            assert other is not None
            return other
        if other is None:
            return self.choices[0]
        far = [sum((a - b) ** 2 for a, b in zip(c, other)) for c in self.choices]
        return next((c for c, d in zip(self.choices, far) if d > CLEAR), self.choices[far.index(max(far))])


MAIN, MARKS, ACCESSORY = Paint(versus="main"), Paint(versus="marks"), Paint(versus="accessory")


@dataclass(frozen=True)
class Slot:
    """One paint of one part of one object of a scene.

    Attributes:
        part: a name in :data:`threedistill.toybox.lexicon.PARTS`.
        paint: what colours it unless the scene gives the part a colour of its own.
        object: which object of the scene.
    """

    part: str
    paint: Paint = MAIN
    object: int = 0


@dataclass(frozen=True)
class Coat:
    """The colours of one object, sRGB.

    Attributes:
        main: of what the colour word governs.
        marks: of stripes or spots; None paints them in the main colour, so they vanish.
        accessory: of what it wears.
        parts: of parts with a colour of their own, by name.
    """

    main: RGB
    marks: RGB | None = None
    accessory: RGB | None = None
    parts: Mapping[str, RGB] = field(default_factory=dict)


def resolve(slots: Sequence[Slot], coats: Sequence[Coat]) -> list[RGB]:
    """The sRGB colour of every slot.

    Arguments:
        slots: of a built scene.
        coats: one per object.
    """
    return [_color(slot, slots, coats[slot.object]) for slot in slots]


def _color(slot: Slot, slots: Sequence[Slot], coat: Coat) -> RGB:
    if slot.part in coat.parts:
        return coat.parts[slot.part]
    named = {"main": coat.main, "marks": coat.marks or coat.main, "accessory": coat.accessory or coat.main}
    versus = slot.paint.versus
    if versus is None or versus in named:
        return slot.paint.color(None if versus is None else named[versus])
    other = next(s for s in slots if s.object == slot.object and s.part == versus)
    return slot.paint.color(_color(other, slots, coat))
