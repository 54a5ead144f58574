"""A call at hand: operands of one library, their plan, and its passes on their addresses.

A library is what a front end says of its arrays; `like` is one of them, on the device at hand:

    read(arrays) -> their key and their addresses, for None a mark and 0; or None where it cannot read one
    addresses(arrays) -> the addresses alone
    copy(array) -> a contiguous copy
    empty(shape, dtype, like) -> an array, not initialised; dtype by name
    stream(like) -> the handle of the device's current stream, 0 on the CPU
    room(like) -> a function from bytes to memory there: its address, and what keeps it alive
    own_precision(like) -> a context in which nothing is cast behind the reference's back
"""

from srwm.reference import loop


cdef class Ready:
    """Operands with their plan, of `srwm._plan`."""

    cdef readonly object plan, library
    cdef readonly tuple arrays, addresses

    def __init__(self, plan, library, tuple arrays, tuple addresses):
        self.plan, self.library, self.arrays, self.addresses = plan, library, arrays, addresses

    def forward(self, bint save, bint return_state, num_threads):
        """The output, the matrices after the last step, what backward wants; None for what is unwanted."""
        plan, library, call, like = self.plan, self.library, self.plan.call, self.arrays[0]
        cdef list results, places
        if plan.runs_on_arrays:
            with library.own_precision(like):
                y, *matrices, saved = loop.forward(call.operator, self.arrays, call.lead, call.sizes, save)
            return [y, *(a if return_state else None for a in matrices), saved]
        results = [library.empty(plan.results[0], call.dtype, like)]
        for shape in plan.results[1:]:
            results.append(library.empty(shape, call.state_dtype, like) if return_state else None)
        results.append(library.empty(*plan.saved, like) if save else None)
        *places, saved_at = library.addresses(tuple(results))
        stream, room = library.stream(like), library.room(like)
        run = plan.forward(save)
        run(self.addresses, tuple(places), saved_at, num_threads=num_threads, stream=stream, empty=room)
        return results

    def backward(self, saved, tuple incoming, num_threads):
        """The gradients of the operands that have one, from those of the results; None where not given."""
        plan, library, call, like = self.plan, self.library, self.plan.call, self.arrays[0]
        cdef tuple gradients
        cdef list places
        if plan.runs_on_arrays:
            with library.own_precision(like):
                return loop.backward(call.operator, self.arrays, call.lead, call.sizes, saved, incoming)
        key, incoming_at = library.read(incoming)
        layouts = [call.operands[i] for i in call.operator.differentiable]
        gradients = tuple([None if a is None else library.empty(a.shape, a.dtype, like) for a in layouts])
        saved_at, *places = library.addresses((saved, *gradients))
        stream, room = library.stream(like), library.room(like)
        plan.backward(key)(self.addresses, saved_at, incoming_at, tuple(places), num_threads=num_threads,
                           stream=stream, empty=room)
        return gradients
