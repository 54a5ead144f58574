"""The tasks by name. Each draws words without end.

==================================== =====================================================================
parity, aa, abab                     regular languages; is the word so far one of them?
dyck-1, reset-dyck, shuffle-2,       brackets; which are open?
dyck-2
counter-2, counter-3                 aⁿbⁿ and aⁿbⁿcⁿ; which letter comes next?
z3, z5, s3, a5, s5                   elements of a group; what is their product so far?
code-3, code-5                       programs with 3 and 5 variables; what do they print? The labels of
                                     code-3-published and code-5-published have the published fault.
listops, listops-10, listops-15      nested lists, of any depth or one; what is their value?
==================================== =====================================================================
"""

from . import brackets, code_execution, groups, listops, one_word, parity
from .word import Task, Word

__all__ = ["TASKS", "Task", "Word"]

_MODULES = (parity, one_word, brackets, groups, code_execution, listops)
TASKS: dict[str, Task] = {task.name: task for module in _MODULES for task in module.TASKS}
