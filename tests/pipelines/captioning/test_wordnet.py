import random
import shutil
import zipfile
from pathlib import Path

import pytest

from pipelines.captioning import wordnet
from pipelines.captioning.errors import CaptioningError, MissingDependencyError
from pipelines.captioning.wordnet import ADJECTIVE, ENVIRONMENT_VARIABLE, NOUN, open_wordnet

PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
FILES = [f"{kind}.{part}" for kind in ("index", "data") for part in PARTS_OF_SPEECH]
FILES += [f"{part}.exc" for part in PARTS_OF_SPEECH]


@pytest.fixture(scope="module")
def words():
    return open_wordnet()


@pytest.fixture(autouse=True)
def read_anew(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    open_wordnet.cache_clear()
    yield
    open_wordnet.cache_clear()


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """WordNet files in the layout of NLTK's downloader: `corpora/wordnet` of a data folder."""
    found = next(place for place in wordnet._places() if (place / "data.noun").is_file())
    folder = tmp_path_factory.mktemp("nltk_data") / "corpora" / "wordnet"
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_bytes((found / name).read_bytes())
    return folder


def test_wordnet_equals_nltk(words, copied, monkeypatch):
    nltk = pytest.importorskip("nltk")
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    monkeypatch.setattr(nltk.data, "path", [str(copied.parents[1])])
    lexnames = "".join(f"{k:02d}\tname{k}\t1\n" for k in range(45))
    (copied / "lexnames").write_text(lexnames)
    (copied / "index.sense").write_text("")
    with pytest.warns(UserWarning, match="multilingual"):
        reader = WordNetCorpusReader(str(copied), None)
    known = sorted(reader.all_lemma_names())
    sample = random.Random(0).sample(known, 100)
    sample += [word + ending for word in sample[:50] for ending in ("s", "es", "er", "ing", "men")]
    sample += ["Buildings", "parking lot", "men", "running", "better", "qwx", "", "café", "ax", "-"]
    for word in sample:
        written = "_".join(word.split())
        found = {lemma.name() for synset in reader.synsets(written) for lemma in synset.lemmas()}
        assert words.synonyms(word) == found, word
        for part, letter in zip(PARTS_OF_SPEECH, "nvar", strict=True):
            assert words.base_forms(word, part) == reader._morphy(word, letter), (word, part)


def test_synonyms_and_base_forms(words):
    assert {"car", "automobile", "machine", "railcar"} <= words.synonyms("Cars")
    assert words.synonyms("galore") == {"abounding", "galore"}  # written "galore(ip)" in the file
    assert words.lemma("buildings", NOUN) == "building"
    assert words.lemma("better", ADJECTIVE) == "good"
    assert [words.singular(noun) for noun in ("men", "houses", "gas")] == ["man", "house", "gas"]


def test_finds_nltk_data_folders_and_zip_files(copied, tmp_path, monkeypatch):
    expected = open_wordnet().synonyms("road")
    (tmp_path / "corpora").mkdir()
    with zipfile.ZipFile(tmp_path / "corpora/wordnet.zip", "w") as file:
        for name in FILES:
            file.write(copied / name, f"wordnet/{name}")
    for folder in (copied.parents[1], tmp_path):
        monkeypatch.setenv("NLTK_DATA", f"/nowhere:{folder}")
        place = next(place for place in wordnet._places() if (place / "data.noun").is_file())
        assert str(place).startswith(str(folder))
        open_wordnet.cache_clear()
        assert open_wordnet().synonyms("road") == expected


def test_rejects_missing_incomplete_and_other_versions(copied, tmp_path, monkeypatch):
    monkeypatch.setattr(wordnet, "_places", lambda: iter([Path("/nowhere")]))
    with pytest.raises(
        MissingDependencyError, match=r"3\.0 was not found.*nltk\.downloader wordnet"
    ):
        open_wordnet()
    other = tmp_path / "wordnet"
    shutil.copytree(copied, other)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(other))
    header = (copied / "data.noun").read_bytes()
    (other / "data.noun").write_bytes(header.replace(b"WordNet 3.0", b"WordNet 3.1"))
    with pytest.raises(CaptioningError, match=r"WordNet 3\.0 is needed.*version 3\.1"):
        open_wordnet()
    (other / "data.noun").write_bytes(header)
    (other / "verb.exc").unlink()
    with pytest.raises(CaptioningError, match=r"not a complete WordNet:.*verb\.exc"):
        open_wordnet()
