"""What the published few-shot scripts do and a training should not, each brought back by a setting."""

from __future__ import annotations


def added_parts(step: int, parts: range) -> range:
    """The micro-batches of a step with ``--accumulation-rule published``, whose losses are added.

    The published loop steps after every micro-batch whose number, from 0, is a multiple of
    ``accumulation``: after the very first one, then after as many each time. Here the first step
    leaves its other parts out, so that the later ones still begin where a joined batch does.
    """
    return parts[-1:] if step == 0 else parts
