"""Pipeline that computes region embeddings from images."""

import io
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from transformers.image_utils import PIL
from transformers.pipelines.base import ChunkPipeline

TASK = "urban-region-feature-extraction"
VIEWS = ("street_view", "satellite")
COUNTS = {"street_view": "n_street_views", "satellite": "n_satellite"}
RETURN_TYPES = ("numpy", "torch", "table")
MAX_PIXELS, MAX_BYTES = 80_000_000, 64 * 2**20
# without formats that run external programs, such as EPS (Ghostscript)
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
BATCH_SIZE = 16
UNDECODED = {"bytes", "path"}  # keys of an undecoded image of `datasets`
IMAGE = "image"
FORMS = "an image (PIL, bytes, path or URL) or a mapping with `street_view` and `satellite`"


class UrbanRegionFeatureExtractionPipeline(ChunkPipeline):
    """Feature extraction for urban regions: the mean of the image embeddings of each view.

    Embeddings are the projected features of the image tower, not normalised. Batches are formed
    across regions.

    Args of a call:
        inputs: An image (PIL, bytes, path or URL); a region, i.e. a mapping with `street_view`
            (a list of images) or `satellite` (an image or a list) or both; a list or generator of
            these; or a dataset of `datasets` with the columns `image` and `region_id`, streaming
            or not, whose rows are averaged by region.
        return_type: `"numpy"`, `"torch"` or `"table"` (columns for `pandas.DataFrame`).
        batch_size: Number of images per forward pass.
        timeout: Timeout in seconds of downloads.

    Returns:
        An embedding of shape `(projection_dim,)` per image. Per region, a mapping with one
        embedding per view (None without images), `n_street_views`, `n_satellite` and `region_id`.
        With `return_type="table"`, or for a dataset, a mapping of these names to columns.

    Raises:
        ValueError: If an input is not an image or region.

    Example:
        >>> pipe = pipeline(
        ...     "urban-region-feature-extraction", model="org/name", trust_remote_code=True
        ... )
        >>> pipe("tile.png")
        >>> pipe({"street_view": ["a.jpg", "b.jpg"], "satellite": "tile.png"})
        >>> pipe(load_dataset("org/dataset", "city-satellite", split="train"))
    """

    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = True  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_tokenizer = False  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any):
        # `pipeline(...)` passes batch_size=None
        if kwargs.get("batch_size") is None:
            kwargs["batch_size"] = BATCH_SIZE
        super().__init__(*args, **kwargs)

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Compute embeddings; see the class for arguments and return values."""
        return_type = kwargs.get("return_type", "numpy")
        if hasattr(inputs, "column_names") or hasattr(inputs, "features"):
            return self._table_of_images(inputs, **kwargs)
        if isinstance(inputs, list | tuple) and len(inputs) == 0:
            raise ValueError(f"Expected at least one input, got an empty list. Pass {FORMS}.")
        outputs = super().__call__(inputs, **kwargs)
        if return_type != "table":
            return outputs
        return columns_of([outputs] if isinstance(outputs, Mapping) else outputs)

    def _sanitize_parameters(
        self, return_type: str = "numpy", timeout: float | None = 30.0
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if return_type not in RETURN_TYPES:
            raise ValueError(f"`return_type` must be one of {RETURN_TYPES}, got {return_type!r}.")
        return {"timeout": timeout}, {}, {"return_type": return_type}

    def preprocess(self, inputs: Any, timeout: float | None = None) -> Iterator[dict[str, Any]]:
        """Yield one image at a time; `is_last` marks the last image of a region."""
        images = images_of(inputs)
        region_id = inputs.get("region_id") if isinstance(inputs, Mapping) else None
        pixels = self._pixels([image for _, image in images], timeout)
        for number, (view, _) in enumerate(images):
            yield {
                "is_last": number == len(images) - 1,
                "view": view,
                "region_id": region_id,
                "pixel_values": next(pixels),
            }

    def _pixels(self, images: list[Any], timeout: float | None) -> Iterator[torch.Tensor]:
        """Pixel values of shape `(1, 3, H, W)`, processed in batches for speed."""
        for start in range(0, len(images), BATCH_SIZE):
            some = [read_image(image, timeout) for image in images[start : start + BATCH_SIZE]]
            pixels = self.image_processor(images=some, return_tensors="pt")["pixel_values"]
            yield from pixels.to(self.dtype).split(1)

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        model: Any = self.model
        features = model.get_image_features(pixel_values=model_inputs.pop("pixel_values"))
        return {**model_inputs, "embedding": features.pooler_output.float()}

    def postprocess(self, model_outputs: list[dict[str, Any]], return_type: str = "numpy") -> Any:
        """Average the embeddings of each view."""
        as_tensor = return_type == "torch"
        views = [output["view"] for output in model_outputs]
        vectors = torch.cat([output["embedding"].reshape(1, -1) for output in model_outputs])
        if views == [IMAGE]:
            if return_type == "table":
                raise ValueError(f"`return_type='table'` needs regions: pass mappings of {VIEWS}.")
            return vectors[0] if as_tensor else vectors[0].numpy()
        region: dict[str, Any] = {"region_id": model_outputs[0]["region_id"]}
        for view in VIEWS:
            mine = vectors[[name == view for name in views]]
            mean = mine.mean(dim=0) if len(mine) else None
            region[COUNTS[view]] = len(mine)
            region[view] = mean if as_tensor or mean is None else mean.numpy()
        return region

    def _table_of_images(self, rows: Any, **kwargs: Any) -> dict[str, list[Any]]:
        """Average a dataset by region in memory proportional to the number of regions."""
        names = set(rows.column_names or rows.features or ())
        if not {"image", "region_id"} <= names:
            raise ValueError(
                f"A dataset needs the columns `image` and `region_id`, got {sorted(names)}."
            )
        view = "street_view" if "heading" in names else "satellite"
        kwargs.pop("return_type", None)
        order: list[Any] = []

        def images() -> Iterator[Any]:
            for row in rows:
                if row["image"] is not None:
                    order.append(row["region_id"])
                    yield row["image"]

        sums: dict[Any, torch.Tensor] = {}
        counts: dict[Any, int] = {}
        outputs = super().__call__(images(), return_type="torch", **kwargs)
        for number, vector in enumerate(outputs if outputs is not None else ()):
            region_id = order[number]
            sums[region_id] = sums[region_id] + vector if region_id in sums else vector.clone()
            counts[region_id] = counts.get(region_id, 0) + 1
        other = VIEWS[1 - VIEWS.index(view)]
        return columns_of(
            {
                "region_id": region_id,
                COUNTS[view]: count,
                COUNTS[other]: 0,
                view: (sums[region_id] / count).numpy(),
                other: None,
            }
            for region_id, count in counts.items()
        )


def columns_of(regions: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Convert rows to columns, in the order of an embedding table."""
    rows = list(regions)
    names = ("region_id", *COUNTS.values(), *VIEWS)
    return {name: [row[name] for row in rows] for name in names}


def images_of(inputs: Any) -> list[tuple[str, Any]]:
    """Images of an input with their views.

    Raises:
        ValueError: If a region has an unknown view or no image.
    """
    if not isinstance(inputs, Mapping) or set(inputs) == UNDECODED:
        return [(IMAGE, inputs)]
    unknown = set(inputs) - {*VIEWS, "region_id"}
    if "image" in unknown:
        raise ValueError(
            "A row of a dataset is not a region: pass the dataset, or the row's `image`."
        )
    if unknown:
        raise ValueError(
            f"A region may have the keys {', '.join(VIEWS)} and region_id; got "
            f"{sorted(map(str, unknown))}."
        )
    images: list[tuple[str, Any]] = []
    for view in VIEWS:
        given = inputs.get(view)
        listed = given if isinstance(given, list | tuple) else [given]
        images += [(view, image) for image in listed if image is not None]
    if not images:
        raise ValueError(f"A region needs at least one image, got {inputs!r}.")
    return images


def read_image(image: Any, timeout: float | None = None) -> Any:
    """Read an RGB image.

    Raises:
        ValueError: If the input is not an image, or is too large.
    """
    if isinstance(image, Mapping) and set(image) == UNDECODED:
        if image["bytes"] is None:  # a path chosen by the dataset's author must not be opened
            raise ValueError(
                f"The dataset's image has a path but no bytes: {image['path']!r}. Decode the "
                "column by `Image(decode=True)`."
            )
        image = image["bytes"]
    opened: Any
    try:
        if isinstance(image, bytes | bytearray):
            opened = _open(io.BytesIO(image))
        elif isinstance(image, str) and image.startswith(("http://", "https://")):
            opened = _open(io.BytesIO(_fetched(image, timeout)))
        elif isinstance(image, str) or hasattr(image, "__fspath__"):
            opened = _open(image)
        elif isinstance(image, PIL.Image.Image):
            opened = image
        else:
            raise ValueError(f"an object of type {type(image).__name__}")
        width, height = opened.size
        if width == 0 or height == 0:
            raise ValueError(f"{width} x {height} pixels")
        if width * height > MAX_PIXELS:
            raise PIL.Image.DecompressionBombError(f"got {width} x {height}")
        opened.load()
        return opened if opened.mode == "RGB" else opened.convert("RGB")
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(f"An image may have at most {MAX_PIXELS:,} pixels: {error}.") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise various types on corrupt data
        raise ValueError(f"Not an image: {_said(image)} ({error}). Pass {FORMS}.") from error


def _open(source: Any) -> Any:
    PIL.Image.init()
    known = [name for name in IMAGE_FORMATS if name in PIL.Image.OPEN]
    return PIL.Image.open(source, formats=known)


def _fetched(address: str, timeout: float | None) -> bytes:
    request = urllib.request.Request(address, headers={"User-Agent": "urbanln"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            content: bytes = answer.read(MAX_BYTES + 1)
    except (OSError, ValueError):
        raise
    except Exception as error:  # http.client's errors are no OSError
        raise OSError(f"{type(error).__name__}: {error}") from error
    if len(content) > MAX_BYTES:
        raise OSError(f"more than {MAX_BYTES:,} bytes")
    return content


def _said(image: Any) -> str:
    if isinstance(image, bytes | bytearray):
        return f"{len(image):,} bytes that start with {bytes(image[:12])!r}"
    text = repr(image)
    return text if len(text) <= 80 else f"{text[:77]}..."


__all__ = ["TASK", "UrbanRegionFeatureExtractionPipeline"]
