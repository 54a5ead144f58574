"""Whether torch's dispatcher has nothing to do for tensors: asked at every call, so it is compiled."""


cdef class Ordinary:
    """Whether tensors are ordinary ones, and nothing else goes on; see `srwm._torch_private.is_plain`.

    types: those that tensors may have. thread_keys, tensor_keys: sets of the dispatcher's keys, as
    integers. The others are torch's functions and modules.
    """

    cdef tuple types
    cdef frozenset thread_keys, tensor_keys
    cdef object include_set, has_torch_function, is_profiled, dispatch_keys, forward_ad

    def __init__(self, tuple types, frozenset thread_keys, frozenset tensor_keys, include_set,
                 has_torch_function, is_profiled, dispatch_keys, forward_ad):
        self.types, self.thread_keys, self.tensor_keys = types, thread_keys, tensor_keys
        self.include_set, self.has_torch_function = include_set, has_torch_function
        self.is_profiled, self.dispatch_keys, self.forward_ad = is_profiled, dispatch_keys, forward_ad

    def __call__(self, tuple tensors):
        if (
            self.include_set().raw_repr() not in self.thread_keys
            or self.is_profiled()
            or self.forward_ad._current_level >= 0
        ):
            return False
        for t in tensors:
            if t is not None and (
                type(t) not in self.types or self.dispatch_keys(t).raw_repr() not in self.tensor_keys
            ):
                return False
        return not self.has_torch_function(*tensors)  # modes of __torch_function__


def wants_gradient(tuple tensors):
    """Whether one of them requires a gradient."""
    for t in tensors:
        if t is not None and t.requires_grad:
            return True
    return False
