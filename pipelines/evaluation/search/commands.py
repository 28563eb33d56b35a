"""The commands embed_captions, retrieve and zero_shot."""

from pathlib import Path

from dataset_builders.files import locked
from pipelines.common.encoders.transformers_models import ModelEncoder, load_model_encoder

from ..embed.images import EmbedSettings, decoding_threads, embed
from ..embed.sources import open_images
from ..embed.tables import read_embeddings
from ..embed.text_tower import TextTower, load_text_tower
from ..probe.city import open_city
from .arguments import (
    EmbedCaptionsArguments,
    LanguageArguments,
    RetrieveArguments,
    ZeroShotArguments,
)


def run(arguments: LanguageArguments, device: str) -> Path:
    """Run one of the commands and return the path of its main output."""
    if isinstance(arguments, EmbedCaptionsArguments):
        return run_embed_captions(arguments, device)
    if isinstance(arguments, RetrieveArguments):
        return run_retrieve(arguments, device)
    return run_zero_shot(arguments, device)


def run_embed_captions(arguments: EmbedCaptionsArguments, device: str) -> Path:
    """Run `evaluate.py embed_captions` and return the path of the embedding table."""
    from ..embed.captions import (
        TFIDF_LABEL,
        TOWER_LABEL,
        embed_text_tower,
        embed_tfidf,
        read_captions,
    )

    captions = read_captions(arguments.dataset_name, arguments.city)
    output = Path(arguments.output_dir) / arguments.city
    is_tfidf = arguments.encoder == "tfidf"
    label = arguments.label or (TFIDF_LABEL if is_tfidf else TOWER_LABEL)
    with locked(output, f".{label}.lock"):
        if is_tfidf:
            return embed_tfidf(captions, output, label)
        tower = load_text_tower(
            str(arguments.model_name_or_path),
            device=device,
            trust_remote_code=arguments.trust_remote_code,
        )
        return embed_text_tower(captions, tower, output, label, arguments.batch_size)


def run_retrieve(arguments: RetrieveArguments, device: str) -> Path:
    """Run `evaluate.py retrieve`, print results and return the path of the JSON or HTML file."""
    from .page import write_search
    from .retrieval import measure, metrics_table, open_gallery, own_captions, search_regions

    encoder, tower, label = _towers(arguments, device)
    output = Path(arguments.output_dir) / arguments.city
    dataset, city, view = arguments.dataset_name, arguments.city, arguments.view
    gallery = open_gallery(encoder, dataset, city, view, output, label, _streaming(arguments))
    if arguments.query is None:
        print(metrics_table(measure(gallery, own_captions(gallery), tower, output, label)))
        return output / f"retrieval-{view}-{label}.json"
    hits = search_regions(arguments.query, gallery, tower.encode, arguments.top)
    for rank, hit in enumerate(hits, start=1):
        print(f"{rank:4d}  {hit.score:.4f}  {hit.region_id}  ({hit.image_id})")
    paths = write_search(arguments.query, hits, gallery, output / "search")
    print("\n".join(f"Wrote {path}" for path in paths))
    return paths[-1]


def run_zero_shot(arguments: ZeroShotArguments, device: str) -> Path:
    """Run `evaluate.py zero_shot`, print results and return the path of the embedding table."""
    from .zero_shot import DEFAULT_PROMPTS, agreement_table, read_prompts, zero_shot

    prompts = read_prompts(Path(arguments.prompts) if arguments.prompts else DEFAULT_PROMPTS)
    city = open_city(arguments.dataset_name, arguments.city)
    encoder, tower, label = _towers(arguments, device)
    output = Path(arguments.output_dir) / arguments.city
    source = open_images(arguments.dataset_name, arguments.city)
    path = embed(encoder, source, output, label, _streaming(arguments))
    table, scale = read_embeddings(path), tower.logit_scale
    found = zero_shot(table, city, prompts, tower.encode, scale, output, label)
    print(agreement_table(found))
    return output / f"zero-shot-{label}.parquet"


def _towers(
    arguments: RetrieveArguments | ZeroShotArguments, device: str
) -> tuple[ModelEncoder, TextTower, str]:
    name, trust = str(arguments.model_name_or_path), arguments.trust_remote_code
    encoder = load_model_encoder(name, device=device, trust_remote_code=trust)
    tower = load_text_tower(name, device=device, trust_remote_code=trust)
    return encoder, tower, arguments.label or Path(name).resolve().name


def _streaming(arguments: RetrieveArguments | ZeroShotArguments) -> EmbedSettings:
    workers = decoding_threads(arguments.num_workers)
    return EmbedSettings(arguments.batch_size, num_workers=workers)


__all__ = ["run", "run_embed_captions", "run_retrieve", "run_zero_shot"]
