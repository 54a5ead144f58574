"""The base class of all layers: their call, checks, mask and single steps."""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from srwm._torch_private import is_plain
from srwm.nn import _checks


class Layer(nn.Module):
    """A layer, called ``out, state = layer(h, state, reset, mask)``.

    A subclass defines its sizes (`d_model`, `d_out`, `state_shape`, `_kind`) and computes in `_run`. `_run`
    gets checked arguments, and inputs that are zero at padding.

    Attributes
    ----------
    d_model : int
        Entries of an input vector.
    d_out : int
        Entries of an output vector.
    """

    d_model: int
    d_out: int

    @property
    def state_shape(self) -> tuple[int, int, int] | None:
        """The last three axes of a state, (H, D, columns); None for a layer without a state."""
        return None

    def reset_parameters(self) -> None:
        """Initialise all parameters again."""
        raise NotImplementedError

    def _kind(self) -> tuple[torch.dtype, torch.device]:
        """Dtype and device of the parameters."""
        raise NotImplementedError

    def _run(
        self, h: Tensor, state: Any, reset: Tensor | None, padding: Tensor | None, return_state: bool
    ) -> tuple[Tensor, Any]:
        """The outputs and the state.

        Where `padding` (..., L) is true, h is zero and reset is false. There the state must not change, and
        the outputs may be anything finite.
        """
        raise NotImplementedError

    def forward(
        self,
        h: Tensor,
        state: Any = None,
        reset: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        return_state: bool = True,
    ) -> tuple[Tensor, Any]:
        """Run the layer over a segment of steps.

        Parameters
        ----------
        h : Tensor (..., L, d_model)
            Inputs, with the dtype of the parameters; under torch.autocast also float32 or halves.
        state : Tensor (..., H, D, columns), optional
            The state that the previous segment returned, or `initial_state`; the class says what it is.
            None: the sequences begin. It is float32, also with halves; it is float64 with float64. Its
            leading axes broadcast to those of h, and do not enlarge them.
        reset : bool Tensor (..., L), optional
            True at the first step of an episode: before that step the layer starts again, as without a
            state. Its leading axes broadcast to those of h, and do not enlarge them.
        mask : bool Tensor (..., L), optional
            False at padding, which may be before, after or between the steps of a sequence. Its leading
            axes broadcast to those of h. The results are those of the sequences without these steps: h
            there, even NaN, changes no other output, no state and no gradient; a reset there is ignored;
            and the output there is zero.
        return_state : bool
            Whether to return the state. Without it, single steps of many sequences that all continue from
            one state take far less memory and time.

        Returns
        -------
        out : Tensor (..., L, d_out)
            d_out is d_model, except perhaps with ``residual="none"``.
        state : Tensor (..., H, D, columns) or None
            The state for the next segment, with the leading axes of h; None without `return_state`, and
            from layers without a state. Gradients flow through it; ``state.detach()`` truncates them.

        Raises
        ------
        TypeError
            An argument that is not a dense tensor (a PackedSequence, a nested or a sparse tensor) or has
            another dtype than those above, a `return_state` that is not a bool.
        ValueError
            Shapes that do not fit, tensors on two devices.

        Warns
        -----
        RuntimeWarning
            Once in a process, if a returned state is not finite. Only states on the CPU are checked, and
            not under compilers, transforms and profilers: to check a state on a GPU, the processor would
            have to wait for it.

        Notes
        -----
        Batches of sequences of different lengths are padded, at either end, and masked. With left padding
        all sequences end at the same step, so that a query after each sequence is one step for all. If
        several sequences follow one another in one row instead, `reset` is true at the first step of each.

        ``torch.export`` takes every layer as it is. The deprecated ``torch.jit.trace`` takes tensors alone
        as results, and refuses a state of None: give it a module that returns ``layer(h)[0]``.

        Examples
        --------
        >>> import torch
        >>> from srwm.nn import SRWM
        >>> layer = SRWM(12, n_heads=3)
        >>> short, long = torch.randn(4, 12), torch.randn(6, 12)
        >>> h = torch.stack([torch.cat([torch.zeros(2, 12), short]), long])  # padded to the left
        >>> mask = torch.arange(6) >= torch.tensor([[2], [0]])
        >>> out, state = layer(h, mask=mask)
        >>> torch.allclose(out[0, 2:], layer(short)[0], atol=1e-6)
        True
        """
        return self._call(h, state, reset, mask, return_state)

    def _call(
        self, h: Tensor, state: Any, reset: Any, mask: Any, return_state: bool, **more: Any
    ) -> tuple[Tensor, Any]:
        """A call; `more` are the arguments that a subclass adds."""
        self._check(type(self).__name__, h, state, reset, mask, return_state, has_steps=True, **more)
        if mask is None:
            out, state = self._run(h, state, reset, None, return_state, **more)
        else:
            padding = ~mask
            rows = padding.unsqueeze(-1)
            # Inputs at padding may be NaN. They are zeroed before they are read: 0 * NaN is NaN.
            h = torch.where(rows, 0, h)  # on a CPU a third faster than masked_fill
            if reset is not None:
                reset = reset & mask
            out, state = self._run(h, state, reset, padding, return_state, **more)
            out = torch.where(rows, 0, out)
        if isinstance(state, Tensor):
            _warn_unless_finite(type(self).__name__, state)
        return out, state

    def step(
        self,
        h: Tensor,
        state: Any = None,
        reset: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        return_state: bool = True,
    ) -> tuple[Tensor, Any]:
        """Run the layer over one step, for agents. The tensors have no axis of steps.

        Parameters
        ----------
        h : Tensor (..., d_model)
            Inputs of one step.
        state, return_state
            As in a call of the layer.
        reset, mask : bool Tensor (...), optional
            As in a call of the layer, without the axis of steps.

        Returns
        -------
        out : Tensor (..., d_out)
        state : Tensor (..., H, D, columns) or None
            As from a call of the layer.

        Raises
        ------
        TypeError, ValueError
            As a call of the layer.

        Examples
        --------
        >>> import torch
        >>> from srwm.nn import SRWM
        >>> layer = SRWM(12, n_heads=3)
        >>> state = layer.initial_state(5)
        >>> for observation in torch.randn(20, 5, 12):
        ...     out, state = layer.step(observation, state, reset=torch.rand(5) < 0.1)
        >>> out.shape
        torch.Size([5, 12])
        """
        return self._step(h, state, reset, mask, return_state)

    def _step(
        self, h: Tensor, state: Any, reset: Any, mask: Any, return_state: bool, **more: Any
    ) -> tuple[Tensor, Any]:
        """A step; `more` are the arguments that a subclass adds, (...) or None."""
        call = f"{type(self).__name__}.step"
        self._check(call, h, state, reset, mask, return_state, has_steps=False, **more)
        reset, mask = (None if a is None else a.unsqueeze(-1) for a in (reset, mask))
        more = {name: None if a is None else a.unsqueeze(-1) for name, a in more.items()}
        # An ordinary call, so that hooks run: pruning and weight norm are hooks.
        out, state = self(h.unsqueeze(-2), state, reset, mask, return_state=return_state, **more)
        return out.squeeze(-2), state

    def initial_state(self, *lead: int) -> Any:
        """The state of sequences that begin: zeros. A call with it is the same as one without a state.

        Parameters
        ----------
        *lead : int
            Leading axes, those of the inputs: ``initial_state(B)`` is for h (B, L, d_model).

        Returns
        -------
        state : Tensor (*lead, H, D, columns) or None
            On the device of the parameters; float64 if they are float64, else float32. None from layers
            without a state.

        Raises
        ------
        TypeError, ValueError
            Axes that are no ints, or below 0.

        Examples
        --------
        >>> from srwm.nn import SRWM
        >>> SRWM(12, n_heads=3).initial_state(5).shape
        torch.Size([5, 3, 4, 16])
        """
        _checks.lead(f"{type(self).__name__}.initial_state", lead)
        if self.state_shape is None:
            return None
        dtype, device = self._kind()
        return torch.zeros(*lead, *self.state_shape, dtype=_checks.state_dtype(dtype), device=device)

    def _check(
        self, call: str, h: Any, state: Any, reset: Any, mask: Any, return_state: Any, *, has_steps: bool
    ) -> None:
        """Raise an error unless the arguments of a call fit the layer and each other."""
        _checks.inputs(call, h, self.d_model, *self._kind(), has_steps=has_steps)
        _checks.flag(call, "reset", reset, h, has_steps=has_steps)
        _checks.flag(call, "mask", mask, h, has_steps=has_steps)
        self._check_state(call, "state", state, h, has_steps=has_steps)
        _checks.boolean(call, "return_state", return_state)

    def _check_state(self, call: str, argument: str, state: Any, h: Tensor, *, has_steps: bool) -> None:
        """Raise an error unless the state, an argument with this name, fits the layer and h."""
        if self.state_shape is None:
            _checks.no_state(call, argument, state)
        else:
            dtype = _checks.state_dtype(self._kind()[0])
            _checks.state(call, argument, state, self.state_shape, dtype, h, has_steps=has_steps)


_has_warned = False


def _warn_unless_finite(name: str, state: Tensor) -> None:
    """Warn if a state is not finite, once in a process."""
    global _has_warned
    if torch.compiler.is_compiling() or _has_warned or state.device.type != "cpu":
        return
    state = state.detach()
    if not is_plain((state,)) or math.isfinite(state.sum().item()) or state.isfinite().all().item():
        return
    _has_warned = True
    warnings.warn(
        f"{name}: state: expected finite numbers, got infinite ones or NaN, which later steps carry on; "
        "look for inputs that are not finite, a learning rate that is too high, or keys that are too long. "
        "This is said once",
        RuntimeWarning,
        stacklevel=_level_of_the_caller(),
    )


def _level_of_the_caller() -> int:
    """The stacklevel of a warning from the function that asks, at the first line not torch's or ours."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("srwm", "torch"):
        frame, level = frame.f_back, level + 1
    return level
