"""Location-only baselines and your own embeddings on the CityRep benchmark.

The benchmark is Liu et al. 2026, https://arxiv.org/abs/2605.26036; its release documents the
splits, the MLP head and the positional encoding (https://github.com/inwind0212/CityRepFull).
"""
