"""Shared fixtures; tests can only connect to the loopback address."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["OMP_NUM_THREADS"] = "1"
# generous timeouts for busy machines
os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "600")
os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "600")

import hypothesis
import pytest
from filelock import FileLock

hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = Path(os.environ.get("URBANLN_SHARED_DATA", ROOT.parent / "shared" / "data"))

BROWSER_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--disable-dev-shm-usage --window-size=1280,1000"
)

BROWSER_TIMEOUT_S = 1200

# Long tests run first, so that no worker starts one at the end.
LONGEST = (
    "tests/pipelines/release",
    "tests/pipelines/pretraining",
    "tests/torture",
    "tests/test_end_to_end",
    "tests/demo",
)

_connect = socket.socket.connect


def _connect_to_loopback_only(self: socket.socket, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in (
        "127.0.0.1",
        "::1",
        "localhost",
    ):
        raise RuntimeError(f"A test tried to reach {address[0]}: tests use the loopback only.")
    return _connect(self, address)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


@pytest.fixture(autouse=True)
def _closed_network(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", _connect_to_loopback_only)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data, which is not part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data not found at {SHARED_DATA}; set URBANLN_SHARED_DATA to its folder")
    return SHARED_DATA


@pytest.fixture(scope="session")
def start_browser(tmp_path_factory) -> Iterator[Callable]:
    """Function that starts a headless browser with additional flags."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    service = pytest.importorskip("selenium.webdriver.chrome.service")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("chromium and chromedriver are not installed")
    started = []

    def start(*more: str) -> object:
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        profile = tmp_path_factory.mktemp("profile")
        for flag in (*BROWSER_FLAGS.split(), f"--user-data-dir={profile}", *more):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        started.append(webdriver.Chrome(options=options, service=service.Service(driver)))
        started[-1].set_script_timeout(BROWSER_TIMEOUT_S)
        started[-1].set_page_load_timeout(BROWSER_TIMEOUT_S)
        return started[-1]

    yield start
    for one in started:
        one.quit()


def tiny_config_fields() -> dict:
    """Configuration with two layers of width 32 and 30-pixel images."""
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    return {
        "text_config": dict(tower),
        "vision_config": {**tower, "image_size": 30, "patch_size": 10},
        "projection_dim": 16,
    }


@pytest.fixture
def tiny_config():
    from modeling_urbanln import UrbanLNConfig

    return UrbanLNConfig(**tiny_config_fields(), queue_size=32)


@pytest.fixture
def tiny_clip():
    """A randomly initialised CLIPModel with 77 text positions."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    return CLIPModel(CLIPConfig(**tiny_config_fields())).eval()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory) -> Path:
    """A saved tiny UrbanLNModel with its processor."""
    import torch
    from transformers import CLIPImageProcessor

    from modeling_urbanln import UrbanLNConfig, UrbanLNModel, UrbanLNProcessor
    from pipelines.common.tokenizer import clip_tokenizer

    folder = tmp_path_factory.mktemp("tiny_model")
    torch.manual_seed(0)
    UrbanLNModel(UrbanLNConfig(**tiny_config_fields(), queue_size=32)).save_pretrained(folder)
    image_processor = CLIPImageProcessor(
        size={"height": 30, "width": 30}, do_center_crop=False, crop_size=30
    )
    UrbanLNProcessor(image_processor, clip_tokenizer()).save_pretrained(folder)
    return folder


def tiny_siglip_tokenizer():
    """Gemma's tokenizer with a small vocabulary and the settings of SigLIP 2's checkpoints."""
    from transformers import GemmaTokenizer

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += ["\u2581", *map(chr, range(33, 127)), "th", "the", "\u2581a"]
    return GemmaTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=[("t", "h"), ("th", "e"), ("\u2581", "a")],
        add_bos_token=False,
        add_eos_token=True,
        padding_side="right",
        model_input_names=["input_ids"],
    )


@pytest.fixture(scope="session")
def tiny_siglip_dir(tmp_path_factory) -> Path:
    """Checkpoint of a randomly initialised SigLIP 2 of fixed resolution, 64 text positions."""
    import torch
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    folder = tmp_path_factory.mktemp("tiny_siglip")
    fields, tokenizer = tiny_config_fields(), tiny_siglip_tokenizer()
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    text_config = {**fields["text_config"], **special, "vocab_size": len(tokenizer)}
    config = SiglipConfig(text_config=text_config, vision_config=fields["vision_config"])
    torch.manual_seed(0)
    model = SiglipModel(config)
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
        model.logit_bias.fill_(-5.0)
        for parameter in model.text_model.embeddings.parameters():
            parameter.normal_(0, 0.5)  # large enough for outputs to depend on positions
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessor(size={"height": 30, "width": 30}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_siglip_model_dir(tiny_siglip_dir, tmp_path_factory) -> Path:
    """A saved tiny UrbanLNSiglipModel with its processor."""
    from modeling_urbanln import UrbanLNProcessor, UrbanLNSiglipModel

    folder = tmp_path_factory.mktemp("tiny_siglip_model")
    UrbanLNSiglipModel.from_clip_pretrained(tiny_siglip_dir, queue_size=32).save_pretrained(folder)
    UrbanLNProcessor.from_clip_pretrained(tiny_siglip_dir).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_city(tmp_path_factory) -> Path:
    """A small synthetic dataset: the city "harborview" with 6 x 6 regions; read only."""
    from dataset_builders.synthetic import build_dataset

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # shared by the workers
    options = {"cities": ("harborview",), "grid_size": 6, "street_views": 2, "seed": 0}
    with FileLock(folder / "tiny_city.lock"):
        if not (folder / "tiny_city" / "README.md").exists():
            build_dataset(folder / "tiny_city", num_workers=1, **options)
    return folder / "tiny_city"
