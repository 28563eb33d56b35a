from dataclasses import replace

import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.captioning import records
from pipelines.captioning.tables import (
    CANDIDATES,
    Reject,
    read_candidates,
    read_rejects,
    write_candidates,
    write_rejects,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCORE = st.none() | st.floats(0, 1)
PHRASES = st.builds(
    records.Phrase,
    text=TEXT,
    kind=st.sampled_from(["object", "attribute", "relation"]),
    score=SCORE,
    kept=st.booleans(),
)
BOXES = st.builds(records.Box, *[st.integers(0, 4000)] * 4)
CANDIDATE = st.builds(
    records.Candidate,
    image_id=TEXT,
    image_sha256=TEXT,
    view=st.sampled_from(["street_view", "satellite"]),
    model=TEXT,
    model_revision=TEXT,
    prompt_version=TEXT,
    index=st.integers(0, 9),
    sampling=st.builds(records.Sampling, seed=st.integers(0, 2**62)),
    text=TEXT,
    generated=TEXT,
    details=st.lists(st.builds(records.LocalCaption, box=BOXES, text=TEXT), max_size=2).map(tuple),
    phrases=st.lists(PHRASES, max_size=3).map(tuple),
    flags=st.lists(TEXT, max_size=2).map(tuple),
    drop_reason=TEXT,
    scores=st.builds(records.Scores, SCORE, SCORE, SCORE, SCORE, SCORE),
    chosen=st.booleans(),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(CANDIDATE, max_size=4))
def test_candidates_round_trip(tmp_path_factory, candidates):
    path = tmp_path_factory.mktemp("tables") / "candidates.parquet"
    write_candidates(path, candidates)
    assert list(read_candidates([path])) == candidates
    assert pq.read_schema(path).names == CANDIDATES.names


def test_kept_and_drop_reason_agree(tmp_path):
    base = records.Candidate("i", "s", "satellite", "m", "r", "p", 0, records.Sampling())
    write_candidates(tmp_path / "c.parquet", [base, replace(base, drop_reason="empty")])
    rows = pq.read_table(tmp_path / "c.parquet").to_pylist()
    assert [(row["kept"], row["drop_reason"]) for row in rows] == [(True, None), (False, "empty")]


def test_rejects_are_sorted_and_may_be_empty(tmp_path):
    path = tmp_path / "rejects.parquet"
    write_rejects(path, [])
    assert list(read_rejects([path])) == []
    one, two = Reject("b", "merge", "m", "timeout"), Reject("a", "image", "", "truncated")
    write_rejects(path, [one, two])
    assert list(read_rejects([path])) == [two, one]
