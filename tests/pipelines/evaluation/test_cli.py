import pytest

from pipelines.evaluation.arguments import parse_arguments
from pipelines.evaluation.cli import main
from pipelines.evaluation.embed.tables import read_embeddings
from pipelines.evaluation.errors import InputError
from tests.pipelines.evaluation.toy import CITY
from tests.processes import run_python

EMBED = ["embed", "--dataset_name", "d", "--city", "c", "--output_dir", "o"]
PROBE = ["probe", "--embeddings", "e", *EMBED[1:]]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["embeds"], "Unknown command 'embeds'; known are embed, baseline, "),
        (EMBED[:-2], "--output_dir is missing"),
        (EMBED, "(?s)Give either --encoder or.*got neither.*  colour_texture +colour, gradient"),
        ([*EMBED, "--encoder", "colour_texture", "--model_name_or_path", "m"], "got both"),
        ([*EMBED, "--model_name_or_path", "m", "--label", "a/b"], "--label must be made of"),
        ([*EMBED, "--model_name_or_path", "m", "--batch_size", "0"], "at least 1, got 0"),
        ([*EMBED, "--model_name", "m"], "argument '--model_name'.*mean 'model_name_or_path'"),
        (["probe", *EMBED[1:]], "--embeddings is missing"),
        ([*PROBE, "--protocols", "city"], "--protocols takes some of random, block"),
        ([*PROBE, "--views", "satellite", "satellite"], "each once"),
        ([*PROBE, "--mlp_learning_rates", "-1"], "0 or more"),
        ([*PROBE, "--seeds", "many"], "--seeds: invalid int value"),
    ],
)
def test_invalid_arguments_raise(argv, message):
    with pytest.raises(InputError, match=message):
        parse_arguments(argv)


@pytest.mark.parametrize("command", ["embed", "probe", "report"])
def test_help_shows_examples(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"python evaluate.py {command}" in shown
    assert "--output_dir" in shown
    assert "--output-dir" not in shown


def test_the_script_embeds_a_checkpoint(tmp_path, toy_dataset, tiny_model_dir):
    where = ["--dataset_name", toy_dataset, "--city", CITY, "--output_dir", tmp_path]
    done = run_python("evaluate.py", "embed", "--model_name_or_path", tiny_model_dir, *where)
    assert done.returncode == 0, done.stderr
    table = read_embeddings(tmp_path / CITY / f"{tiny_model_dir.name}.parquet")
    assert table.metadata["city"] == CITY
    assert table.metadata["encoder"] == f"{tiny_model_dir.name} (UrbanLNModel)"


def test_an_error_is_one_line_with_exit_code_2(toy_dataset, tmp_path, capsys):
    where = ["--dataset_name", str(toy_dataset), "--city", "nowhere", "--output_dir", str(tmp_path)]
    assert main(["embed", "--encoder", "colour_texture", *where]) == 2
    error = capsys.readouterr().err
    assert error.startswith("evaluate.py: ")
    assert "it has: toytown" in error
    assert error.count("\n") == 1
