import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.captioning import records
from pipelines.captioning.tables import (
    Reject,
    read_candidates,
    read_rejects,
    write_candidates,
    write_rejects,
)

SHARE = st.none() | st.floats(0, 1)
PHRASES = st.builds(records.Phrase, sentence=st.just(0), score=SHARE)
CANDIDATES = st.builds(  # the other fields by their types
    records.Candidate,
    index=st.integers(0, 9),
    sampling=st.builds(records.Sampling, st.floats(0, 1), st.floats(0, 1)),
    phrases=st.lists(PHRASES, max_size=3).map(tuple),
    scores=st.builds(records.Scores, SHARE, SHARE, SHARE, SHARE, SHARE),
    usage=st.just(records.Usage(1, 2, seconds=0.5)),
)


@settings(max_examples=10)
@given(st.lists(CANDIDATES, max_size=4))
def test_candidates_round_trip(tmp_path_factory, candidates):
    path = tmp_path_factory.mktemp("tables") / "candidates.parquet"
    write_candidates(path, candidates)
    assert list(read_candidates([path])) == candidates
    rows = pq.read_table(path).to_pylist()
    assert all(row["kept"] == (row["drop_reason"] is None) for row in rows)


def test_rejects_are_sorted_and_may_be_empty(tmp_path):
    path = tmp_path / "rejects.parquet"
    write_rejects(path, [])
    assert list(read_rejects([path])) == []
    one, two = Reject("b", "merge", "m", "timeout"), Reject("a", "image", "", "truncated")
    write_rejects(path, [one, two])
    assert list(read_rejects([path])) == [two, one]
