"""All operators of the package, by name."""

from __future__ import annotations

from srwm.operators.delta import DELTA
from srwm.operators.delta_rnn import DELTA_RNN
from srwm.operators.recurrent_delta import RECURRENT_DELTA
from srwm.operators.self_modifying import SELF_MODIFYING, SELF_MODIFYING_QUERY
from srwm.operators.spec import Operator
from srwm.operators.srwm import SRWM, SRWM_READ
from srwm.operators.sum_rule import NORMALISED_SUM_RULE, SUM_RULE

OPERATORS: dict[str, Operator] = {
    op.name: op
    for op in (
        SRWM,
        SRWM_READ,
        SELF_MODIFYING,
        SELF_MODIFYING_QUERY,
        SUM_RULE,
        NORMALISED_SUM_RULE,
        DELTA,
        RECURRENT_DELTA,
        DELTA_RNN,
    )
}
