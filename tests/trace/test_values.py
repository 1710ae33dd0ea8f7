"""Tensors without contents that are copied, as code that clones a layer does."""

import copy
import gc
from collections import Counter

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from calib.trace.values import without_values


def test_a_copied_tensor_stays_of_its_mode_and_keeps_its_values():
    with without_values() as mode:
        steps = torch.arange(5)
        again = copy.deepcopy({"a": steps, "b": steps})
        assert again["a"] is again["b"] and again["a"] is not steps
        assert again["a"].fake_mode is mode
        assert again["a"].tolist() == [0, 1, 2, 3, 4]


def test_a_copied_module_keeps_its_parameters_and_what_hangs_on_them():
    with without_values() as mode:
        layer = torch.nn.Linear(3, 4)
        layer.bias.requires_grad_(False)
        layer.bias.marked = ["so"]
        again = copy.deepcopy(layer)
    assert [name for name, _ in again.named_parameters()] == ["weight", "bias"]
    assert again.weight.requires_grad and not again.bias.requires_grad
    assert again.bias.marked == ["so"] and again.bias.marked is not layer.bias.marked
    assert again.weight.fake_mode is mode and again.weight is not layer.weight
    assert again.weight.untyped_storage()._cdata != layer.weight.untyped_storage()._cdata


def test_copies_give_back_each_storage_once(monkeypatch):
    """Twice ends in a corrupted heap, at some later garbage collection."""
    gc.collect()
    held_here: Counter[int] = Counter()  # what was taken before may be given back meanwhile
    twice: list[int] = []
    free, weak = torch.UntypedStorage._free_weak_ref, torch.UntypedStorage._weak_ref

    def _free_weak_ref(ref):
        if ref in held_here:
            held_here[ref] -= 1
            twice.extend([ref] * (held_here[ref] < 0))
        free(ref)

    def _weak_ref(storage):
        ref = weak(storage)
        held_here[ref] += 1
        return ref

    monkeypatch.setattr(torch.UntypedStorage, "_free_weak_ref", _free_weak_ref)
    monkeypatch.setattr(torch.UntypedStorage, "_weak_ref", _weak_ref)
    with without_values():
        held = [torch.arange(4), torch.nn.Linear(2, 2)]
        copies = copy.deepcopy(held)
        assert isinstance(copies[0], FakeTensor)
    del held, copies
    gc.collect()
    assert held_here and min(held_here.values()) == 0 and not twice


def test_torch_s_own_copies_are_as_before():
    before = vars(FakeTensor).get("__deepcopy__")
    with pytest.raises(RuntimeError, match="on purpose"), without_values(), without_values():
        raise RuntimeError("on purpose")
    assert vars(FakeTensor).get("__deepcopy__") is before
