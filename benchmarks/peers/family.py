"""The operators that have no hand-written peers: srwm beside a loop of torch operations, under autograd.

Each loop is written as a user would write it: packed weights, one product for all that a step reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import srwm
from benchmarks.cases import Case, Size
from benchmarks.peers.torch_calls import torch_peer


def _read(v: Tensor, A: Tensor) -> Tensor:
    """v A for vectors (..., D) and matrices (..., D, M)."""
    return (v.unsqueeze(-2) @ A).squeeze(-2)


def _write(A: Tensor, k: Tensor, u: Tensor) -> Tensor:
    return A + k.unsqueeze(-1) * u.unsqueeze(-2)


def _steps(*arrays: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The entries of each step of arrays (..., L, D)."""
    return (tuple(a[..., t, :] for a in arrays) for t in range(arrays[0].shape[-2]))


def _of_sequences(A: Tensor, like: Tensor) -> Tensor:
    return A.expand(*like.shape[:-2], *A.shape[-2:])


def sum_loop(q: Tensor, k: Tensor, v: Tensor, S: Tensor) -> Tensor:
    """The sum rule."""
    S, outputs = _of_sequences(S, q), []
    for q_t, k_t, v_t in _steps(q, k, v):
        S = _write(S, k_t, v_t)
        outputs.append(_read(q_t, S))
    return torch.stack(outputs, -2)


def normalised_sum_loop(q: Tensor, k: Tensor, v: Tensor, S: Tensor, z: Tensor) -> Tensor:
    """The same with a denominator."""
    S, outputs = _of_sequences(S, q), []
    for q_t, k_t, v_t in _steps(q, k, v):
        S, z = _write(S, k_t, v_t), z + k_t
        outputs.append(_read(q_t, S) / ((q_t * z).sum(-1, keepdim=True) + 1e-6))
    return torch.stack(outputs, -2)


def delta_loop(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, S: Tensor) -> Tensor:
    """The delta rule."""
    S, outputs = _of_sequences(S, q), []
    steps = _steps(q, k, v, beta.unsqueeze(-1))
    for q_t, k_t, v_t, beta_t in steps:
        S = _write(S, k_t, beta_t * (v_t - _read(k_t, S)))
        outputs.append(_read(q_t, S))
    return torch.stack(outputs, -2)


def recurrent_delta_loop(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    b: Tensor,
    R_q: Tensor,
    R_k: Tensor,
    R_v: Tensor,
    r_b: Tensor,
    S: Tensor,
) -> Tensor:
    """The Recurrent Delta Net."""
    D = q.shape[-1]
    inputs, R = torch.cat([q, k, v, b.unsqueeze(-1)], -1), torch.cat([R_q, R_k, R_v, r_b.unsqueeze(-1)], -1)
    S, y, outputs = _of_sequences(S, q), torch.zeros_like(q[..., 0, :]), []
    for (inputs_t,) in _steps(inputs):
        q_t, k_t, v_t, b_t = (inputs_t + _read(y.tanh(), R)).split([D, D, D, 1], -1)
        q_t, k_t = q_t.softmax(-1), k_t.softmax(-1)
        S = _write(S, k_t, b_t.sigmoid() * (v_t - _read(k_t, S)))
        y = _read(q_t, S)
        outputs.append(y)
    return torch.stack(outputs, -2)


def delta_rnn_loop(z: Tensor, k: Tensor, v: Tensor, beta: Tensor, R: Tensor) -> Tensor:
    """The Delta RNN, version 2."""
    R, h, outputs = _of_sequences(R, z), torch.zeros_like(z[..., 0, :]), []
    steps = _steps(z, k, v, beta.unsqueeze(-1))
    for z_t, k_t, v_t, beta_t in steps:
        R = _write(R, k_t, beta_t * (v_t - _read(k_t, R)))
        e = h.exp()
        h = z_t + _read(e / (e.sum(-1, keepdim=True) + 1e-6), R)
        outputs.append(h)
    return torch.stack(outputs, -2)


def self_modifying_loop(x: Tensor, W: Tensor) -> Tensor:
    """The memory that modifies itself, by half the squared distance."""
    D, M = W.shape[-2:]
    Do, W, outputs = M - 3 * D - 2, _of_sequences(W, x), []
    for (x_t,) in _steps(x):
        _, k, v, eta, alpha, q = _read(x_t, W).split([Do, D, D, 1, 1, D], -1)
        k = torch.nn.functional.normalize(k, dim=-1, eps=1e-6)
        outputs.append(_read(q, W[..., :Do]))
        u = RATE_SCALE * torch.nn.functional.softplus(eta) * _read(v - 2 * k, W)
        W = _write(alpha.sigmoid().unsqueeze(-1) * W, k, u)
    return torch.stack(outputs, -2)


def another_reader_loop(x: Tensor, W: Tensor, read: Tensor) -> Tensor:
    """The self-referential weight matrix whose output reads another input."""
    D, M = W.shape[-2:]
    sizes = [M - 2 * D - 4, D, D, 4]
    repeats = torch.tensor(sizes)
    W, outputs = _of_sequences(W, x), []
    for x_t, read_t in _steps(x, read):
        _, q, k, b = _read(x_t, W).split(sizes, -1)
        q, k = q.softmax(-1), k.softmax(-1)
        outputs.append(_read(read_t, W[..., : sizes[0]]))
        rates = b.sigmoid().repeat_interleave(repeats, -1, output_size=M)
        W = _write(W, k, rates * _read(q - k, W))
    return torch.stack(outputs, -2)


RATE_SCALE = 0.1

Draw = Callable[[np.random.Generator, Size], tuple[np.ndarray, ...]]


def _vectors(rng: np.random.Generator, size: Size, n: int) -> Any:
    return rng.standard_normal((n, *size), dtype=np.float32)


def _matrices(rng: np.random.Generator, size: Size, columns: int) -> np.ndarray:
    _, H, _, D = size
    return rng.standard_normal((H, D, columns), dtype=np.float32) / np.float32(np.sqrt(D))


def _of_delta(rng: np.random.Generator, size: Size) -> tuple[np.ndarray, ...]:
    """Keys about as long as 1, rates between 0 and 1."""
    q, k, v = _vectors(rng, size, 3)
    k /= np.float32(np.sqrt(size[-1]))
    return q, k, v, rng.random(size[:-1], dtype=np.float32), _matrices(rng, size, size[-1])


def _of_sum(rng: np.random.Generator, size: Size) -> tuple[np.ndarray, ...]:
    return (*_vectors(rng, size, 3), _matrices(rng, size, size[-1]))


def _of_normalised_sum(rng: np.random.Generator, size: Size) -> tuple[np.ndarray, ...]:
    q, k, v, S = _of_sum(rng, size)
    return np.abs(q), np.abs(k), v, S, np.ones((size[1], size[-1]), np.float32)


def _of_recurrent_delta(rng: np.random.Generator, size: Size) -> tuple[np.ndarray, ...]:
    _, H, _, D = size
    q, k, v, b, S = _of_delta(rng, size)
    R = [_matrices(rng, size, D) for _ in range(3)]
    return q, k, v, b, *R, rng.standard_normal((H, D), dtype=np.float32) / np.float32(np.sqrt(D)), S


def _of_self_modifying(rng: np.random.Generator, size: Size) -> tuple[np.ndarray, ...]:
    return _vectors(rng, size, 1)[0], _matrices(rng, size, 4 * size[-1] + 2) / 2


def _of_another_reader(rng: np.random.Generator, size: Size) -> tuple[np.ndarray, ...]:
    x, read = _vectors(rng, size, 2)
    return x, _matrices(rng, size, 3 * size[-1] + 4), read


@dataclass(frozen=True)
class Member:
    """An operator of the family.

    Attributes
    ----------
    operator : str
        Its name in `srwm.operators.table`.
    functions : object
        What has its `forward` and `vjp`.
    loop : callable
        The same of tensors as a loop of torch operations.
    draw : callable
        Random operands of a size.
    keyword : str
        The name of the last operand, where that is no positional argument.
    options : tuple of (str, Any)
        Its settings.
    """

    operator: str
    functions: Any
    loop: Callable[..., Tensor]
    draw: Draw
    keyword: str = ""
    options: tuple[tuple[str, Any], ...] = ()

    def call(self, verb: str, operands: tuple[Any, ...], **more: Any) -> Any:
        """One of its functions."""
        options = dict(self.options) | more
        if self.keyword:
            operands, options[self.keyword] = operands[:-1], operands[-1]
        return getattr(self.functions, verb)(*operands, **options)

    def forward(self, *operands: Tensor) -> Tensor:
        """`forward` of tensors."""
        y: Tensor = self.call("forward", operands)
        return y

    def case(self, size: Size) -> Case:
        """A random case, in float32."""
        rng = np.random.default_rng(0)
        operands = self.draw(rng, size)
        return Case(operands, rng.standard_normal(size, dtype=np.float32))

    def truth(self, case: Case) -> list[np.ndarray]:
        """y and the gradients of the operands in float64, by the readable definition."""
        case = case.astype(np.float64)
        (y, _), pullback = self.call("vjp", case.operands, backend="reference")
        return [y, *(g for g in pullback(case.grad_y) if g is not None)]


FAMILY = {
    "sum rule": Member("sum_rule", srwm.sum_rule, sum_loop, _of_sum),
    "normalised sum rule": Member(
        "normalised_sum_rule",
        srwm.sum_rule,
        normalised_sum_loop,
        _of_normalised_sum,
        options=(("normalise", 1e-6),),
    ),
    "delta rule": Member("delta", srwm.delta, delta_loop, _of_delta),
    "Recurrent Delta Net": Member(
        "recurrent_delta", srwm.recurrent_delta, recurrent_delta_loop, _of_recurrent_delta
    ),
    "Delta RNN": Member("delta_rnn", srwm.delta_rnn, delta_rnn_loop, _of_delta),
    "self-modifying memory": Member(
        "self_modifying",
        srwm.self_modifying,
        self_modifying_loop,
        _of_self_modifying,
        options=(("c", 2.0), ("rate_scale", RATE_SCALE)),
    ),
    "SRWM, another reader": Member(
        "srwm_read", srwm, another_reader_loop, _of_another_reader, keyword="read"
    ),
}

PEERS = tuple(
    peer
    for name, member in FAMILY.items()
    for peer in (
        torch_peer(f"srwm, {name}", partial(getattr, member, "forward")),
        torch_peer(f"PyTorch loop, {name}", partial(getattr, member, "loop")),
    )
)
