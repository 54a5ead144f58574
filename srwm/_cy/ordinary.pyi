from collections.abc import Callable
from typing import Any

class Ordinary:
    def __init__(
        self,
        types: tuple[type, ...],
        thread_keys: frozenset[int],
        tensor_keys: frozenset[int],
        include_set: Callable[[], Any],
        has_torch_function: Callable[..., bool],
        is_profiled: Callable[[], bool],
        dispatch_keys: Callable[[Any], Any],
        forward_ad: Any,
    ) -> None: ...
    def __call__(self, tensors: tuple[Any, ...]) -> bool: ...

def wants_gradient(tensors: tuple[Any, ...]) -> bool: ...
