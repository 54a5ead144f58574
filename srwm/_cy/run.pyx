"""Runs one call: operands of one library, their plan, and the passes of the plan on their addresses.

`library` is an object of a front end, with these functions on its arrays. `like` is an array of the call;
its device is used:

    read(arrays) -> their key and their addresses, for None a mark and 0; or None if it cannot read one
    addresses(arrays) -> only the addresses
    copy(array) -> a contiguous copy
    empty(shape, dtype, like) -> an array, not initialised; dtype by name
    empty_like(array) -> the same with the layout of a contiguous array
    threads() -> how many threads a call may use that names no number
    stream(like) -> the handle of the device's current stream, 0 on the CPU
    room(like) -> a function from bytes to memory on the device: its address, and the object that owns it
    own_precision(like) -> a context in which the library casts no dtype of the reference (no autocast)
"""

from srwm.reference import loop


def known(find, library, op, tuple arrays, backend):
    """Arrays with their plan, if there is one that takes them as they are; or None.

    `find` looks up a plan by (operator, backend, key): `srwm._plan.find`.
    """
    reading = library.read(arrays)
    plan = None if reading is None else find((op, backend, reading[0]))
    return None if plan is None or plan.copies else Ready(plan, library, arrays, reading[1])


cdef class Ready:
    """Operands with their plan, of `srwm._plan`."""

    cdef readonly object plan, library
    cdef readonly tuple arrays, addresses

    def __init__(self, plan, library, tuple arrays, tuple addresses):
        self.plan, self.library, self.arrays, self.addresses = plan, library, arrays, addresses

    def forward(self, bint save, bint return_state, num_threads):
        """The output, the matrices after the last step, the data saved for backward; None if not needed."""
        plan, library, call, like = self.plan, self.library, self.plan.call, self.arrays[0]
        cdef list results, places
        if plan.runs_on_arrays:
            with library.own_precision(like):
                y, *matrices, saved = loop.forward(call.operator, self.arrays, call.lead, call.sizes, save)
            return [y, *(a if return_state else None for a in matrices), saved]
        if plan.output_like is None:
            results = [library.empty(plan.results[0], call.dtype, like)]
        else:
            results = [library.empty_like(self.arrays[plan.output_like])]
        for shape in plan.results[1:]:
            results.append(library.empty(shape, call.state_dtype, like) if return_state else None)
        results.append(library.empty(*plan.saved, like) if save else None)
        *places, saved_at = library.addresses(tuple(results))
        stream, room = library.stream(like), library.room(like)
        run = plan.forward(save)
        run(self.addresses, tuple(places), saved_at, num_threads or library.threads, stream, room)
        return results

    def backward(self, saved, tuple incoming, num_threads, check):
        """The gradients of the operands, from those of the results; None for operands not given.

        `check` takes the plan, and raises if `saved` or `incoming` do not fit it. It is called for arrays
        with a layout that has not come before.
        """
        plan, library, call, like = self.plan, self.library, self.plan.call, self.arrays[0]
        cdef tuple gradients
        cdef list places
        if plan.runs_on_arrays:
            check(plan)
            with library.own_precision(like):
                return loop.backward(call.operator, self.arrays, call.lead, call.sizes, saved, incoming)
        reading = library.read((saved, *incoming))
        run = plan.backward(None if reading is None else reading[0], check)
        if run is None:
            incoming = tuple([None if g is None else library.copy(g) for g in incoming])
            return self.backward(saved, incoming, num_threads, check)
        saved_at, *places = reading[1]
        gradients = tuple([
            None if of is None else library.empty(*of, like) if place is None
            else library.empty_like(self.arrays[place])
            for of, place in zip(plan.gradients, plan.gradients_like)
        ])
        stream, room = library.stream(like), library.room(like)
        run(self.addresses, saved_at, tuple(places), library.addresses(gradients),
            num_threads or library.threads, stream, room)
        return gradients
