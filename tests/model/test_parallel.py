"""Laws of layouts: what all cards do together is what one card would do, and nothing else."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.causal_lm import CausalLM, Llama, Qwen3Moe
from model.deepseek_ocr import DeepseekOCRModel
from model.layer import Call, Layer
from model.ops import Collective, Operator
from model.parallel import Layout, LayoutError, Parallel, share
from model.workload import Workload

LAWS = settings(deadline=None, max_examples=40)
REPLICATED = ("input_layernorm", "post_attention_layernorm", "norm", "gate", "rotary_emb")
"""Modules that every card of ``tp`` runs, beside the residual sums and what heads share."""


def text(tokens: int, batch: int, steps: int = 3) -> Workload:
    return Workload("text", prompt_tokens=tokens, batch=batch, decode_steps=steps, logits="all")


@st.composite
def models(draw: Any) -> tuple[CausalLM, Layout]:
    """A model, dense or of experts, and a layout that it takes."""
    tp, pp = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    dp = draw(st.sampled_from([1, 1, 2, 3, 8]))
    kv = draw(st.sampled_from([d for d in range(1, 2 * tp + 1) if tp % d == 0 or d % tp == 0]))
    whole = kv * tp if tp % kv else tp
    heads = (whole if whole % kv == 0 else whole * kv) * draw(st.integers(1, 2))
    sparse = draw(st.booleans())
    ep = draw(st.sampled_from([d for d in range(1, tp * dp + 1) if tp * dp % d == 0]))
    sizes = {
        "hidden": 16,
        "layers": pp + draw(st.integers(0, 2)),
        "heads": heads,
        "kv_heads": kv,
        "head_dim": 4,
        "vocabulary": draw(st.integers(tp, 100)),
        "intermediate": tp * 6,
    }
    if not sparse:
        return Llama(**sizes, dense_layers=sizes["layers"]), Layout(tp, pp, 1, dp, microbatches=1)
    experts = ep * draw(st.integers(1, 3))
    model = Qwen3Moe(
        **sizes,
        dense_layers=draw(st.integers(0, 1)),
        experts=experts,
        top_k=draw(st.integers(1, min(3, experts))),
        expert_intermediate=5 * (tp * dp // ep),
        shared_experts=tp // (tp * dp // ep) if dp == 1 else 0,
    )
    return model, Layout(tp, pp, ep, dp, microbatches=1)


def leaf(path: str) -> str:
    return path.rpartition(".")[2]


def copies(model: CausalLM, layout: Layout, path: str) -> int:
    """How often a stage's cards do what stands at ``path``, where it is not split."""
    name = leaf(path)
    if name in ("k_proj", "v_proj", "k_norm"):
        return max(1, layout.tp // model.kv_heads)
    if name == "mlp" and int(path.split(".")[2]) >= model.dense_layers:
        return layout.tp  # shared and routed experts are added up
    return layout.tp if name in REPLICATED or name.isdigit() or name == "model" else 1


def views(parallel: Parallel, workload: Workload, phase: str) -> list[Layer]:
    """What every card runs of a pass."""
    layout = parallel.layout
    ranks = [parallel.parts(workload, rank)[phase] for rank in range(layout.stage_cards)]
    return [parallel.stage(part, number) for part in ranks for number in range(layout.pp)]


def by_path(calls: list[Call], cost: Callable[[Operator], Any]) -> Counter[str]:
    found: Counter[str] = Counter()
    for call in calls:
        found[call.path] += cost(call.op) * call.count
    return found


@LAWS
@given(
    made=models(),
    tokens=st.integers(1, 5),
    each=st.integers(1, 2),
    phase=st.sampled_from(["prefill", "decode"]),
)
def test_products_of_all_cards_are_those_of_one(
    made: tuple[CausalLM, Layout], tokens: int, each: int, phase: str
) -> None:
    model, layout = made
    workload = text(tokens, each * layout.dp)
    whole = by_path(model.phases(workload)[phase].layer.calls(), lambda op: op.tensor_core_flops)
    found: Counter[str] = Counter()
    for view in views(Parallel(model, layout), workload, phase):
        found += by_path(view.calls(), lambda op: op.tensor_core_flops)
    expected = {path: n * copies(model, layout, path) for path, n in whole.items() if n}
    assert dict(found) == expected


@LAWS
@given(made=models(), tokens=st.integers(1, 5))
def test_arithmetic_beside_the_products_too(made: tuple[CausalLM, Layout], tokens: int) -> None:
    """Where keys are not replicated, whose rotation is with the heads', nor pairs sorted by each of
    the cards that an expert is split over."""
    model, layout = made
    workload = text(tokens, layout.dp)

    def arithmetic(op: Operator) -> Any:
        return 0 if isinstance(op, Collective) else op.cuda_core_flops

    whole = by_path(model.phases(workload)["prefill"].layer.calls(), arithmetic)
    found: Counter[str] = Counter()
    for view in views(Parallel(model, layout), workload, "prefill"):
        found += by_path(view.calls(), arithmetic)
    for path, n in whole.items():
        name = leaf(path)
        if name == "self_attn" and layout.tp > model.kv_heads:
            continue
        idle = tokens * workload.batch * model.top_k < layout.ep  # some card counts nothing
        if name == "experts" and (layout.expert_tp > 1 or idle):
            continue
        # Positions and their angles are the same for all sequences: every group makes them.
        groups = layout.dp if name in ("rotary_emb", "model") else 1
        assert found[path] == n * copies(model, layout, path) * groups, path


@LAWS
@given(made=models())
def test_weights_of_all_cards_are_those_of_one(made: tuple[CausalLM, Layout]) -> None:
    model, layout = made
    workload = text(2, layout.dp)

    def weights(layer: Layer) -> Counter[str]:
        return Counter({node.path: node.layer.own_weight_bytes() for node in layer.nodes()})

    whole = weights(model.phases(workload)["decode"].layer)
    found: Counter[str] = Counter()
    for view in views(Parallel(model, layout), workload, "decode"):
        found += weights(view)
    for path, nbytes in whole.items():
        name = leaf(path)
        times = layout.tp if name == "q_norm" else copies(model, layout, path)
        if name == "k_norm":
            times = layout.tp  # a scale of one head's width, whatever heads a card has
        if name == "embed_tokens" or (name == "model" and model.vocabulary):
            times = 1
        times *= 1 if name == "experts" else layout.dp
        assert found[path] == nbytes * times, path


@LAWS
@given(made=models(), tokens=st.integers(1, 5), phase=st.sampled_from(["prefill", "decode"]))
def test_all_else_on_a_card_is_what_it_tells_others(
    made: tuple[CausalLM, Layout], tokens: int, phase: str
) -> None:
    model, layout = made
    workload = text(tokens, layout.dp)
    whole = Counter((c.path, c.op.operator) for c in model.phases(workload)[phase].layer.calls())
    for rank in range(layout.stage_cards):
        part = Parallel(model, layout).parts(workload, rank)[phase]
        own: Counter[tuple[str, str]] = Counter()
        for number in range(layout.pp):
            for call in Parallel(model, layout).stage(part, number).calls():
                if isinstance(call.op, Collective):
                    assert call.op.ranks in (layout.tp, layout.stage_cards, 2)
                else:
                    own[(call.path, call.op.operator)] += 1
        missing = {path for path, _ in whole - own}
        assert not own - whole
        assert all("experts" in path for path in missing), "a card that no pair was sent to"


def test_one_card_is_the_model_itself() -> None:
    model, workload = Llama(layers=2, dense_layers=2), text(7, 2)
    alone = Parallel(model, Layout())
    for name, phase in model.phases(workload).items():
        found = alone.phases(workload)[name]
        assert found.layer.calls() == phase.layer.calls()
        assert found.layer.activation_bytes() == phase.layer.activation_bytes()
        assert found.layer.kv_cache_bytes() == phase.layer.kv_cache_bytes()


def told(layer: Layer) -> dict[str, list[Collective]]:
    found: dict[str, list[Collective]] = {}
    for call in layer.calls():
        if isinstance(call.op, Collective):
            found.setdefault(call.op.operator, []).extend([call.op] * call.count)
    return found


def test_collectives_of_llama_by_hand() -> None:
    """Two all-reduces a layer and one of the embedding, of all tokens; the logits are gathered."""
    model = Llama()
    root = Parallel(model, Layout(tp=4)).phases(text(10, 2))["prefill"].layer
    found = told(root)
    assert {name: len(ops) for name, ops in found.items()} == {"all_reduce": 65, "all_gather": 1}
    assert {op.elements for op in found["all_reduce"]} == {20 * 4096}
    assert found["all_gather"][0].elements == 20 * 128256


def test_experts_by_hand() -> None:
    model, workload = Qwen3Moe(layers=2), text(12, 4)
    rows = 48
    alone = told(Parallel(model, Layout(tp=4, ep=4)).phases(workload)["prefill"].layer)
    assert set(alone) == {"all_reduce", "all_gather"}
    assert len(alone["all_reduce"]) == 1 + 2 * 2
    apart = told(Parallel(model, Layout(tp=2, dp=2, ep=4)).phases(workload)["prefill"].layer)
    # Each of two cards stands for half of its group's tokens, which go to eight experts each.
    pairs = rows // 2 // 2 * 8
    assert [op.elements for op in apart["all_to_all"]] == [pairs * 2048] * 4
    assert {op.ranks for op in apart["all_to_all"]} == {4}
    cut = told(Parallel(model, Layout(tp=2, dp=2)).phases(workload)["prefill"].layer)
    assert [op.elements for op in cut["reduce_scatter"]] == [rows * 2048] * 2


def test_a_pipeline_by_hand() -> None:
    """Equal stages: m microbatches take as long as m + p - 1 of them on one."""
    sizes: dict[str, Any] = {"layers": 8, "dense_layers": 8, "vocabulary": 1}
    model = Llama(**sizes)

    def flops(layout: Layout, batch: int, phase: str = "prefill") -> float:
        root = Parallel(model, layout).phases(text(64, batch))[phase].layer
        return sum(c.op.tensor_core_flops * c.count for c in root.calls())

    one = flops(Layout(), 1)
    for pp, parts in ((2, 1), (4, 4), (8, 8)):
        layout = Layout(pp=pp, microbatches=parts)
        assert flops(layout, parts) == pytest.approx(one * (parts + pp - 1) / pp, rel=1e-3)
    step = flops(Layout(), 1, "decode")
    assert flops(Layout(pp=4), 4, "decode") == pytest.approx(step, rel=1e-6)
    assert flops(Layout(pp=4, microbatches=8), 8, "decode") == pytest.approx(2 * step, rel=0.13)


@given(batch=st.integers(1, 300), asked=st.integers(1, 64))
def test_no_microbatch_is_empty(batch: int, asked: int) -> None:
    parts = Layout(pp=2, microbatches=asked).parts(batch)
    each = -(-batch // parts)
    assert 1 <= parts <= min(asked, batch)
    assert (parts - 1) * each < batch <= parts * each


def test_what_stages_send_each_other() -> None:
    model, layout = Llama(layers=6), Layout(tp=2, pp=3, microbatches=1, node_cards=4)
    hops = told(Parallel(model, layout).phases(text(5, 2))["prefill"].layer)["send_recv"]
    assert [(op.elements, op.nodes) for op in hops] == [(10 * 4096, 1), (10 * 4096, 2)]


def test_memory_of_a_card() -> None:
    model, workload = Llama(), text(100, 8)
    whole = Parallel(model, Layout())
    for layout in (Layout(tp=8), Layout(pp=4), Layout(tp=2, pp=2, dp=2)):
        parallel = Parallel(model, layout)
        weights = parallel.weight_bytes(workload)
        assert weights >= whole.weight_bytes(workload) / (layout.tp * layout.pp)
        assert weights < whole.weight_bytes(workload) / (layout.tp * layout.pp) * 1.15
        cache = whole.working(workload)["decode"][0] / layout.cards
        assert parallel.working(workload)["decode"][0] == pytest.approx(cache)


@given(total=st.integers(0, 999), parts=st.integers(1, 64))
def test_shares_are_even_and_whole(total: int, parts: int) -> None:
    found = [share(total, parts, rank) for rank in range(parts)]
    assert sum(found) == total
    assert max(found) - min(found) <= 1
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ({"tp": 3}, "parallel.tp = 3: expected a divisor of heads = 32"),
        ({"tp": 0}, "parallel.tp = 0: expected a whole number of at least 1"),
        ({"pp": True}, "parallel.pp = True: expected a whole number of at least 1"),
        ({"pp": 33}, "parallel.pp = 33: expected at most layers = 32"),
        ({"ep": 2}, "parallel.ep = 2: expected a divisor of tp \\* dp = 1"),
        ({"tp": 2, "ep": 2}, "parallel.ep = 2: expected 1 for a model without experts"),
    ],
)
def test_layouts_that_cannot_be_are_refused_by_name(layout: dict[str, Any], said: str) -> None:
    with pytest.raises(LayoutError, match=f"^{said}$"):
        Parallel(Llama(), Layout(**layout)).phases(text(5, 2))


def test_kv_heads_that_do_not_go_with_the_cards() -> None:
    model = Llama(heads=24, kv_heads=6)
    with pytest.raises(LayoutError, match=r"parallel.tp = 4: expected a divisor or a multiple"):
        Parallel(model, Layout(tp=4)).phases(text(5, 2))


def test_a_page_is_seen_whole_and_read_in_parts() -> None:
    """The vision part is on every card as it is."""
    model = DeepseekOCRModel()
    workload = Workload("page", side=512, prompt_tokens=10)
    whole, found = model.phases(workload), Parallel(model, Layout(tp=2)).phases(workload)
    assert found["vision"].layer == whole["vision"].layer
    assert told(found["prefill"].layer).keys() == {"all_reduce", "all_gather"}
