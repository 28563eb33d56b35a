"""The cost of a run, before any model is asked."""

from .inputs import list_shards
from .kit import open_models
from .recipe import Recipe

TOKENS_OF_AN_IMAGE, TOKENS_OF_A_PROMPT, TOKENS_OF_A_MERGE = 1000, 150, 500
BOXES_OF_AN_IMAGE = 4
"""Rough means, for an estimate only; the report has measured counts."""


def estimate(recipe: Recipe) -> str:
    """Images, requests, tokens and price of a run that starts from nothing.

    Models differ by a factor of ten in the tokens of an image: run with `--max_images 20` and read
    the measured counts in the report.
    """
    images = sum(shard.count for shard in list_shards(recipe))
    long = recipe.generate.captions_per_model
    local, merges = (BOXES_OF_AN_IMAGE, long) if recipe.refine else (0, 0)
    requests = images * (long + local + merges)
    asked = requests * (TOKENS_OF_AN_IMAGE + TOKENS_OF_A_PROMPT)
    asked += images * merges * TOKENS_OF_A_MERGE
    answered = images * (
        (long * recipe.generate.max_tokens + merges * recipe.merge.max_tokens) // 2
        + local * recipe.segment.max_tokens // 2
    )
    lines = [
        f"{images} images; of each model about {requests:,} requests, {asked / 1e6:,.1f} million "
        f"tokens in and {answered / 1e6:,.1f} million out."
    ]
    models = open_models(recipe)
    for config in recipe.models:
        price = asked * float(config.get("price_per_million_input", 0)) / 1e6
        price += answered * float(config.get("price_per_million_output", 0)) / 1e6
        remote = models[config["name"]].remote
        where = "images leave this machine" if remote else "on this machine"
        lines.append(f"  {config['name']}: {where}; price {price:,.2f}")
    return "\n".join(lines)


__all__ = ["estimate"]
