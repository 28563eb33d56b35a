from collections import deque

import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling_urbanln import EmbeddingQueue, MomentumKeys, update_momentum_


def keys(start: int, count: int) -> MomentumKeys:
    """Keys whose values identify their sample."""
    numbers = torch.arange(start, start + count)
    column = numbers.float().unsqueeze(1)
    return MomentumKeys(image=column, text=-column, ids=numbers)


@given(size=st.integers(0, 7), batches=st.lists(st.integers(0, 16), max_size=8))
def test_queue_equals_a_deque(size, batches):
    queue, expected, start = EmbeddingQueue(size, 1), deque(maxlen=size), 0
    for count in batches:
        queue.enqueue(keys(start, count))
        expected.extend(range(start, start + count))
        start += count
        held = queue.keys()
        assert len(queue) == len(expected)
        assert sorted(held.ids.tolist()) == sorted(expected)
        assert held.image[:, 0].tolist() == held.ids.tolist()
        assert held.text[:, 0].tolist() == [-i for i in held.ids.tolist()]


def test_queue_resumes_from_its_state():
    queue, other = EmbeddingQueue(4, 1), EmbeddingQueue(4, 1)
    queue.enqueue(keys(0, 6))
    other.load_state_dict(queue.state_dict())
    queue.enqueue(keys(6, 3))
    other.enqueue(keys(6, 3))
    assert torch.equal(queue.keys().ids, other.keys().ids)


@given(momentum=st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)), seed=st.integers(0, 99))
def test_teacher_is_the_moving_average(momentum, seed):
    generator = torch.Generator().manual_seed(seed)
    student = [torch.randn(3, 2, generator=generator) * 1e3, torch.randn((), generator=generator)]
    teacher = [torch.randn(3, 2, generator=generator), torch.randn((), generator=generator)]
    before = [t.clone() for t in teacher]
    update_momentum_(student, teacher, momentum)
    for s, t, b in zip(student, teacher, before, strict=True):
        torch.testing.assert_close(t, momentum * b + (1 - momentum) * s, atol=1e-3, rtol=1e-5)
        if momentum in (0, 1):
            assert torch.equal(t, b if momentum else s)
