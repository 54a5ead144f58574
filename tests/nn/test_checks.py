"""Bad arguments of layers: an error before any work, which names the layer, the argument and the remedy."""

from __future__ import annotations

import inspect
import pickle

import numpy as np
import pytest
import torch

from srwm import nn
from srwm.nn import (
    SRWM,
    DeltaCDE,
    DeltaDelta,
    DeltaNet,
    DeltaRNN,
    FakeSR,
    FeedForward,
    LinearAttention,
    RecurrentDeltaNet,
    SelfModifyingTitans,
    SRDelta,
    Stack,
)

d_model, H, D, L = 12, 3, 4, 10

MAKERS = {
    "SRWM": lambda: SRWM(d_model, H),
    "DeltaNet": lambda: DeltaNet(d_model, H),
    "LinearAttention": lambda: LinearAttention(d_model, H, normalise=1e-6),
    "RecurrentDeltaNet": lambda: RecurrentDeltaNet(d_model, H),
    "DeltaRNN": lambda: DeltaRNN(d_model, H),
    "DeltaDelta": lambda: DeltaDelta(d_model, H),
    "SRDelta": lambda: SRDelta(d_model, H),
    "FakeSR": lambda: FakeSR(d_model, H),
    "SelfModifyingTitans": lambda: SelfModifyingTitans(d_model, H),
    "DeltaCDE": lambda: DeltaCDE(d_model, H),
    "FeedForward": lambda: FeedForward(d_model, 5),
    "Stack": lambda: Stack([SRWM(d_model, H), FeedForward(d_model, 5)]),
}
each_layer = pytest.mark.parametrize("name", MAKERS)
COLUMNS = {
    "SRWM": 16,
    "DeltaNet": 4,
    "LinearAttention": 5,
    "RecurrentDeltaNet": 5,
    "DeltaRNN": 9,
    "DeltaDelta": 17,
    "SRDelta": 29,
    "SelfModifyingTitans": 18,
    "DeltaCDE": 7,
}
MIXERS = [getattr(nn, name) for name in (*COLUMNS, "FakeSR")]
each_with_state = pytest.mark.parametrize("name", COLUMNS)


def inputs(*lead):
    return torch.randn(*lead, d_model)


def flags(*shape):
    return torch.zeros(shape, dtype=torch.bool)


def given_state(layer, with_state, *lead):
    return layer.initial_state(*lead) if with_state else None


@pytest.fixture
def no_work(monkeypatch):
    """Fails the test where a layer begins to compute."""

    def work(*_):
        pytest.fail("the layer began to compute")

    for kind in (*MIXERS, FeedForward, Stack):
        monkeypatch.setattr(kind, "_run", work)


def wrong(name, kind, message, *arguments, step=False, **options):
    layer = MAKERS[name]()
    with pytest.raises(kind, match=message) as error:
        (layer.step if step else layer)(*arguments, **options)
    assert str(error.value).startswith(f"{name}.step: " if step else f"{name}: ")
    assert ";" in str(error.value)  # behind it stands what to do
    return str(error.value)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("argument", ["reset", "mask"])
@pytest.mark.parametrize("with_state", [False, True], ids=["", "state"])
@each_layer
def test_flags_of_another_shape(name, with_state, argument):
    for length, shape in (
        (10, (4, 1)),
        (10, (4, 0)),
        (10, (4, 5)),
        (10, ()),
        (1, (3,)),
        (1, (4,)),
        (1, (4, 5)),
        (10, (4, 10, 1)),
    ):
        state = given_state(MAKERS[name](), with_state, 4)
        wrong(
            *(name, ValueError, rf"{argument}: expected shape \(\.\.\., L={length}\)"),
            *(inputs(4, length), state),
            **{argument: flags(*shape)},
        )
    for shape in ((3, 10), (2, 4, 10), (5, 1, 10)):
        wrong(
            *(name, ValueError, rf"{argument}: expected axes that broadcast to those of h, \(4, 10\)"),
            *(inputs(4, 10), given_state(MAKERS[name](), with_state, 4)),
            **{argument: flags(*shape)},
        )


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("argument", ["reset", "mask"])
@pytest.mark.parametrize("with_state", [False, True], ids=["", "state"])
@each_layer
def test_flags_that_are_no_bools(name, with_state, argument):
    state = given_state(MAKERS[name](), with_state, 4)
    for dtype in (torch.float32, torch.int64, torch.uint8):
        wrong(
            *(name, TypeError, rf"{argument}: expected dtype torch.bool, got {dtype}; compare"),
            *(inputs(4, L), state),
            **{argument: flags(4, L).to(dtype)},
        )
    for value in (flags(4, L).numpy(), [[False] * L] * 4, True):
        wrong(
            *(name, TypeError, rf"{argument}: expected a Tensor, got {type(value).__name__}"),
            *(inputs(4, L), state),
            **{argument: value},
        )


@pytest.mark.usefixtures("no_work")
@each_layer
def test_inputs_of_another_shape_or_kind(name):
    for shape in ((3, 9, 11), (d_model,), (), (d_model, 1)):
        wrong(name, ValueError, r"h: expected shape \(\.\.\., L, d_model=12\), got", torch.zeros(shape))
    for dtype in (torch.int64, torch.float64, torch.bfloat16, torch.bool, torch.complex64):
        wrong(
            *(
                name,
                TypeError,
                rf"h: expected the dtype of the layer's parameters, torch.float32, got {dtype}",
            ),
            inputs(4, L).to(dtype),
        )
    for h in (None, np.zeros((4, L, d_model), np.float32), [[0.0] * d_model]):
        wrong(name, TypeError, f"h: expected a Tensor, got {type(h).__name__}", h)
    wrong(name, ValueError, "h: expected on the device of the layer's parameters, cpu, got meta",
          torch.empty(4, L, d_model, device="meta"))  # fmt: skip


@pytest.mark.usefixtures("no_work")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@each_layer
def test_sequences_of_other_forms_are_refused_with_the_way_to_pad_them(name):
    sequences = [inputs(3), inputs(5)]
    packed = torch.nn.utils.rnn.pack_sequence(sequences, enforce_sorted=False)
    wrong(
        name,
        TypeError,
        "h: expected a dense Tensor, got a PackedSequence; .*pad_packed_sequence.*mask",
        packed,
    )
    for layout in (torch.strided, torch.jagged):
        nested = torch.nested.nested_tensor(sequences, layout=layout)
        wrong(
            name,
            TypeError,
            "h: expected a dense Tensor, got a nested one; .*to_padded_tensor.*mask",
            nested,
        )
    wrong(name, TypeError, r"h: expected a dense Tensor, got one of layout .*; pass h\.to_dense\(\)",
          inputs(4, L).to_sparse())  # fmt: skip
    quantised = torch.quantize_per_tensor(inputs(4, L), 0.1, 0, torch.qint8)
    wrong(
        name,
        TypeError,
        r"h: expected a dense Tensor, got a quantized one; pass h\.dequantize\(\)",
        quantised,
    )


@pytest.mark.usefixtures("no_work")
@each_with_state
def test_states_of_another_shape_or_kind(name):
    columns, h = COLUMNS[name], inputs(4, L)
    for shape in (
        (4, H, D, columns + 1),
        (4, H, D + 1, columns),
        (4, 1, D, columns),
        (4, H, 1, columns),
        (D, columns),
        (4, L, H * D),
        (),
    ):
        wrong(
            *(name, ValueError, rf"state: expected shape \(\.\.\., H=3, D=4, {columns} columns\), got"),
            *(h, torch.zeros(shape)),
        )
    for dtype in (torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float64):
        wrong(
            *(name, TypeError, f"state: expected dtype torch.float32, got {dtype}"),
            *(h, torch.zeros(4, H, D, columns, dtype=dtype)),
        )
    wrong(name, TypeError, "state: expected a Tensor, got tuple", h, (torch.zeros(4, H, D, columns),))
    wrong(name, TypeError, "state: expected a Tensor, got ndarray", h, np.zeros((4, H, D, columns)))
    wrong(name, ValueError, "state: expected on the device of h, cpu, got meta",
          h, torch.zeros(4, H, D, columns, device="meta"))  # fmt: skip


@pytest.mark.usefixtures("no_work")
@each_with_state
def test_a_state_never_enlarges_the_axes_of_the_inputs(name):
    state = torch.zeros(4, H, D, COLUMNS[name])
    message = wrong(name, ValueError, "state: expected leading axes that broadcast", inputs(4), state)
    for part in ("(4, 12)", str(tuple(state.shape)), f"call {name}.step"):
        assert part in message
    wrong(name, ValueError, "state: expected leading axes that broadcast", inputs(1, L), state)
    wrong(name, ValueError, "state: expected leading axes that broadcast", inputs(5, L), state)
    wrong(name, ValueError, "state: expected leading axes that broadcast", inputs(4, L), state[None])
    wrong(name, ValueError, "state: expected leading axes .* give h the axes", inputs(), state, step=True)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", ["FakeSR", "FeedForward"])
def test_layers_that_carry_nothing_refuse_a_state(name):
    wrong(
        name,
        ValueError,
        r"state: expected None, .*got shape \(4, 3, 4\)",
        inputs(4, L),
        torch.zeros(4, 3, 4),
    )
    wrong(name, ValueError, "state: expected None, .*got type tuple", inputs(4, L), ())


@pytest.mark.usefixtures("no_work")
@each_layer
def test_one_step_names_itself(name):
    state = MAKERS[name]().initial_state(4)
    options = {"step": True}
    wrong(name, ValueError, r"h: expected shape \(\.\.\., d_model=12\), got \(4, 11\)",
          torch.zeros(4, 11), state, **options)  # fmt: skip
    wrong(name, ValueError, r"h: expected shape", torch.zeros(()), **options)
    for argument in ("reset", "mask"):
        for shape in ((3,), (4, 1), (1, 4), (12,)):
            wrong(
                *(name, ValueError, rf"{argument}: expected axes that broadcast to those of h, \(4,\)"),
                *(inputs(4), state),
                **{argument: flags(*shape)},
                **options,
            )
        wrong(name, TypeError, f"{argument}: expected dtype torch.bool", inputs(4), state,
              **{argument: torch.zeros(4)}, **options)  # fmt: skip


@pytest.mark.usefixtures("no_work")
def test_a_stack_names_the_layer_whose_state_is_wrong():
    h, state = inputs(4, L), torch.zeros(4, H, D, 16)
    wrong("Stack", TypeError, "state: expected a tuple of 2 states, .*got Tensor", h, state)
    wrong("Stack", ValueError, "state: expected 2 states, .*got 1; .*None", h, (state,))
    wrong("Stack", ValueError, r"state\[0\]: expected shape .*16 columns", h, (state[..., 1:], None))
    wrong("Stack", ValueError, r"state\[1\]: expected None", h, (state, state))
    wrong("Stack", TypeError, r"state\[0\]: expected dtype torch.float32", h, (state.double(), None))


def test_no_copy_of_a_layer_forgets_what_it_checks():
    layer = pickle.loads(pickle.dumps(SRWM(d_model, H)))
    with pytest.raises(ValueError, match="SRWM: reset: expected shape"):
        layer(inputs(4, L), None, flags(4, 1))


def test_parts_of_a_stack_must_fit():
    with pytest.raises(ValueError, match="Stack: layers: expected at least one, got none"):
        Stack([])
    with pytest.raises(
        TypeError, match=r"Stack: layers\[1\]: expected a layer of srwm\.nn, .*got LayerNorm"
    ):
        Stack([SRWM(d_model, H), torch.nn.LayerNorm(d_model)])
    narrow = SRWM(d_model, H, residual="none", d_out=6)
    with pytest.raises(
        ValueError, match=r"Stack: layers\[1\]: expected inputs of 6 entries, .*got d_model = 12"
    ):
        Stack([narrow, FeedForward(d_model, 5)])
    assert Stack([narrow, FeedForward(6, 5)])(inputs(4, L))[0].shape == (4, L, 6)


@pytest.mark.parametrize("kind", MIXERS)
def test_sizes_and_options_of_a_layer(kind):
    name = kind.__name__
    with pytest.raises(ValueError, match=f"{name}: d_model: expected a multiple of n_heads = 5, got 32"):
        kind(32, 5)
    with pytest.raises(ValueError, match=f"{name}: n_heads: expected an int >= 1, got 0"):
        kind(32, 0)
    with pytest.raises(ValueError, match=f"{name}: d_model: expected an int >= 1, got -4"):
        kind(-4, 2)
    with pytest.raises(TypeError, match=rf"{name}: d_model: expected an int >= 1, got 32\.0"):
        kind(32.0, 4)
    with pytest.raises(
        ValueError, match=f"{name}: residual: expected one of norm_skip, plain, pre_norm, none, got 'post'"
    ):
        kind(32, 4, residual="post")
    with pytest.raises(ValueError, match=f"{name}: d_out: expected d_model = 32 with residual 'plain'"):
        kind(32, 4, residual="plain", d_out=8)
    assert kind(np.int64(32), np.int64(4)).d_head == 8


def test_sizes_of_a_feed_forward_block():
    with pytest.raises(ValueError, match="FeedForward: d_ff: expected an int >= 1, got 0"):
        FeedForward(4, 0)
    with pytest.raises(TypeError, match="FeedForward: d_model: expected an int >= 1, got '4'"):
        FeedForward("4", 4)


OPTIONS = {
    "SRWM": {
        **{"input_softmax": True, "read": "raw", "head_norm": True},
        **{"init": "uniform", "init_scale": 0.5, "beta_init": 0.5, "q_scale": 0.01},
    },
    "LinearAttention": {
        "feature_map": "dpfp",
        "nu": 1,
        "n_features": None,
        "sum_norm": False,
        "normalise": 1e-6,
        "scale": 0.5,
        "eps": 0.0,
    },
    "DeltaNet": {
        "feature_map": "softmax",
        "nu": 1,
        "n_features": None,
        "sum_norm": True,
        "beta_range": np.int64(2),
        "normalise": 1e-5,
        "scale": 0.5,
        "eps": 1e-5,
    },
    "RecurrentDeltaNet": {},
    "DeltaRNN": {"version": 1, "feature_map": "softmax", "eps": 1e-5},
    "DeltaDelta": {"base_weights": True, "eps": 1e-5},
    "SRDelta": {"input_softmax": True, "beta_init": 0.5, "q_scale": 0.01},
    "FakeSR": {"input_softmax": True},
    "SelfModifyingTitans": {
        **{"objective": "dot", "keys": "softmax", "rate": "sigmoid", "rate_scale": 0.5, "eps": 1e-3},
        "adaptive_query": False,
    },
    "DeltaCDE": {"method": "rk4", "drive": "dx"},
    "FeedForward": {},
}
BAD_OPTIONS = {
    "dtype": [
        (value, TypeError, "one of torch.float16, torch.bfloat16, torch.float32, torch.float64 or None")
        for value in (
            *(torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn),
            *("float32", float, np.float32, np.dtype("float32"), [torch.float32]),
        )
    ],
    "device": [
        *(
            (value, ValueError, "a device that torch can use here")
            for value in ("nonsense", "", "cpu:-1", -1)
        ),
        *((value, TypeError, "a device that torch can use here") for value in (3.5, True, ["cpu"])),
    ],
    "dropout": [
        *((value, ValueError, "a finite number >= 0 and <= 1") for value in (2, -0.1, np.nan, np.inf)),
        *((value, TypeError, "a finite number >= 0 and <= 1") for value in ("a", None, True, [0.1])),
    ],
    "eps": [
        *(
            (value, ValueError, "a finite number >= 0")
            for value in (-1.0, -1e-300, np.nan, np.inf, 10**400)
        ),
        *((value, TypeError, "a finite number >= 0") for value in ("a", None, False, torch.zeros(4))),
    ],
    "input_softmax": [(value, TypeError, "True or False") for value in (1, 0.0, "no", None, [])],
    "residual": [
        (value, ValueError, "one of norm_skip, plain, pre_norm, none")
        for value in (None, True, [], np.array(["plain", "none"]))
    ],
}
BAD_OPTIONS["base_weights"] = BAD_OPTIONS["input_softmax"]
BAD_OPTIONS["sum_norm"] = [bad for bad in BAD_OPTIONS["input_softmax"] if bad[0] is not None]
BAD_OPTIONS["feature_map"] = [
    (value, ValueError, "one of .*") for value in ("relu", None, True, [], np.array(["elu", "dpfp"]))
]
BAD_OPTIONS["version"] = BAD_OPTIONS["beta_range"] = [
    (value, ValueError, "one of 1, 2") for value in (0, 3, 1.0, True, "1", None, np.array([1, 2]))
]
BAD_OPTIONS["nu"] = [
    *((value, ValueError, "an int >= 1") for value in (0, -1)),
    *((value, TypeError, "an int >= 1") for value in (1.0, True, None, "1")),
    (2, ValueError, "1 with map 'elu', .*"),
]
BAD_OPTIONS["n_features"] = [(value, ValueError, "None with map 'elu', .*") for value in (8, "8")]
BAD_OPTIONS["normalise"] = [
    *((value, ValueError, "a finite number >= 1e-30") for value in (0, -1.0, 1e-40, np.nan, np.inf)),
    *((value, TypeError, "a finite number >= 1e-30") for value in ("a", False, torch.zeros(4))),
]
BAD_OPTIONS["head_norm"] = BAD_OPTIONS["adaptive_query"] = BAD_OPTIONS["input_softmax"]
BAD_OPTIONS["init_scale"] = BAD_OPTIONS["eps"]
BAD_OPTIONS["SelfModifyingTitans.eps"] = [
    *((value, ValueError, "a finite number >= 1e-30") for value in (0, -1.0, np.nan, np.inf)),
    *((value, TypeError, "a finite number >= 1e-30") for value in ("a", None, False)),
]
for option, choices in {
    "read": "x, raw, softmax",
    "init": "normal, uniform",
    "objective": "l2, l2_doubled, dot, dot_printed",
    "keys": "l2, softmax",
    "rate": "softplus, sigmoid",
    "method": "euler, rk4",
    "drive": "v1, v2, dx",
}.items():
    BAD_OPTIONS[option] = [
        (value, ValueError, f"one of {choices}")
        for value in (None, True, [], "nonsense", "", np.array(["x", "dx"]))
    ]
BAD_OPTIONS["q_scale"] = BAD_OPTIONS["beta_init"] = BAD_OPTIONS["rate_scale"] = [
    *((value, ValueError, "a finite number") for value in (np.nan, np.inf, -np.inf, 10**400)),
    *((value, TypeError, "a finite number") for value in ("a", None, True, 1j, torch.zeros(4))),
]
BAD_OPTIONS["scale"] = [bad for bad in BAD_OPTIONS["q_scale"] if bad[0] is not None]


def options_of(name):
    """The options of a layer that has no layers in it, by name, each with a value that it takes."""
    common = {"dtype": torch.float64, "device": torch.device("meta"), "dropout": np.float32(0.5)}
    return common | OPTIONS[name] | ({} if name == "FeedForward" else {"residual": "plain"})


@pytest.mark.parametrize(("name", "option"), [(name, o) for name in OPTIONS for o in options_of(name)])
def test_options_of_another_type_or_out_of_range(name, option, monkeypatch):
    kind = getattr(nn, name)
    assert kind(12, 3, **{option: options_of(name)[option]}).d_model == 12
    monkeypatch.setattr(
        torch.nn.Linear, "__init__", lambda *_, **__: pytest.fail("it began to make a layer")
    )
    for value, error, expected in BAD_OPTIONS.get(f"{name}.{option}", BAD_OPTIONS[option]):
        message = rf"^{name}: {option}: expected {expected}, got .*; "
        with pytest.raises(error, match=message):
            kind(12, 3, **{option: value})


def test_every_option_of_a_layer_is_tried():
    for name in OPTIONS:
        parameters = inspect.signature(getattr(nn, name)).parameters.values()
        options = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        assert options - {"d_out"} == set(options_of(name))  # test_sizes_and_options_of_a_layer


def test_options_of_other_feature_maps_are_refused_by_the_layer():
    for options, message in (
        ({"feature_map": "favor"}, "n_features: expected an int >= 1 with map 'favor', got None"),
        ({"feature_map": "favor", "n_features": 0}, "n_features: expected an int >= 1, got 0"),
        ({"feature_map": "l2", "sum_norm": True}, "sum_norm: expected False with map 'l2'"),
        ({"feature_map": "l2", "normalise": 1e-5}, "normalise: expected None with map 'l2', .* got 1e-05"),
        ({"sum_norm": False, "eps": 1e-5}, "eps: expected 0 without sum_norm"),
        ({"feature_map": "softmax", "nu": 2}, "nu: expected 1 with map 'softmax'"),
    ):
        for kind in (DeltaNet, LinearAttention):
            with pytest.raises(ValueError, match=f"^{kind.__name__}: {message}.*; "):
                kind(12, 3, **options)
    with pytest.raises(
        ValueError, match=r"^DeltaRNN: feature_map: expected one of elu, softmax, got 'dpfp'; "
    ):
        DeltaRNN(12, 3, feature_map="dpfp")
    with pytest.raises(ValueError, match=r"^DeltaRNN: eps: expected 0 without sum_norm"):
        DeltaRNN(12, 3, feature_map="softmax", eps=1e-5)


@pytest.mark.parametrize("value", [SRWM(12, 3), 3, None])
def test_a_stack_of_no_iterable(value):
    message = f"^Stack: layers: expected an iterable of layers, got {type(value).__name__}; pass a list"
    with pytest.raises(TypeError, match=message):
        Stack(value)


@pytest.mark.parametrize("size", [True, False, np.True_])
def test_sizes_are_no_bools(size):
    for make in (lambda: SRWM(size, 1), lambda: SRWM(4, size), lambda: FeedForward(4, size)):
        with pytest.raises(TypeError, match=r"expected an int >= 1, got .*; pass an int"):
            make()


@each_layer
def test_axes_of_an_initial_state(name):
    layer = MAKERS[name]()
    for axes in ((2, 3),), ([2],), (2.0,), (4, "a"), (True,), (None,), (torch.Size([2]),):
        message = rf"^{name}\.initial_state: lead: expected an int >= 0 for each leading axis, got .*; pass"
        with pytest.raises(TypeError, match=message):
            layer.initial_state(*axes)
    with pytest.raises(
        ValueError, match=rf"^{name}\.initial_state: lead: expected an int >= 0 .*, got -1; "
    ):
        layer.initial_state(2, -1)
    layer.initial_state(0, np.int64(2))


@pytest.mark.parametrize("name", COLUMNS)
def test_an_initial_state_is_compiled_and_exported_for_any_batch(name):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = MAKERS[name]()

        def forward(self, h):
            return self.layer(h, self.layer.initial_state(h.shape[0]))[0]

    torch.compiler.reset()  # what it compiled of other layers counts towards its limit
    model, compiled = Model(), torch.compile(Model(), fullgraph=True, dynamic=True, backend="eager")
    compiled(inputs(3, 2))
    with torch.compiler.set_stance("fail_on_recompile"):
        assert compiled(inputs(4, 2)).shape == (4, 2, d_model)
    count = torch.export.Dim("count", min=2, max=64)
    exported = torch.export.export(model, (inputs(3, 2),), dynamic_shapes=({0: count},)).module()
    h = inputs(5, 2)
    torch.testing.assert_close(exported(h), model(h))


@pytest.mark.usefixtures("no_work")
@each_layer
def test_return_state_is_a_bool(name):
    message = "return_state: expected True or False, got 'no' of type str; pass a bool"
    wrong(name, TypeError, message, inputs(4, L), return_state="no")
    wrong(name, TypeError, message, inputs(4), return_state="no", step=True)


@pytest.mark.usefixtures("no_work")
@each_layer
def test_autocast_leaves_double_alone(name):
    with torch.autocast("cpu", torch.bfloat16):
        wrong(name, TypeError, "h: expected the dtype of the layer's parameters", inputs(4, L).double())
        with pytest.raises(TypeError, match=f"{name}: h: expected the dtype of .* torch.float64, got"):
            MAKERS[name]().double()(inputs(4, L))
        MAKERS[name]()._check(name, inputs(4, L).bfloat16(), None, None, None, True, has_steps=True)
