"""ultralytics.data: data sets that are dark, balanced and read through a curve; what they fetch is said first.

Albumentations is here too: it learns LowLight in every process.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from yolo_wnlb.yolo.patches.files import imread
from yolo_wnlb.yolo.patches.wrapping import wrap


def patch_data(base: ModuleType) -> None:
    """Darken and balance the pictures of every data set that is built with lowlight= and balanced=; give it a curve."""
    from yolo_wnlb.yolo import sixteen_bits

    wrap(base.BaseDataset, "__init__", init_dataset)
    wrap(base.BaseDataset, "get_img_files", get_img_files)
    wrap(base.BaseDataset, "load_image", load_image)
    wrap(base.BaseDataset, "cache_images_to_disk", cache_images_to_disk)
    base.BaseDataset.cv2_flag = sixteen_bits.FLAGS_WITH_CURVE


def init_dataset(stock: Callable[..., Any], dataset: Any, *args: Any, **kwargs: Any) -> None:
    """Build the data set, its caches bright, then put in front of them what the arguments ask for."""
    from yolo_wnlb.yolo import sixteen_bits
    from yolo_wnlb.yolo.darkness import attach

    hyp = inspect.signature(stock).bind(dataset, *args, **kwargs).arguments.get("hyp")
    dataset.curve = sixteen_bits.curve_of(hyp)
    stock(dataset, *args, **kwargs)
    sixteen_bits.announce(dataset.im_files, dataset.curve, dataset.prefix)
    attach(dataset, hyp)
    if getattr(hyp, "denoise", None) or "unlabelled" in (getattr(dataset, "data", None) or {}):
        from yolo_wnlb.yolo import denoise

        denoise.attach(dataset, hyp)
    if getattr(hyp, "balanced", None):
        from yolo_wnlb.yolo import balance

        balance.attach(dataset, hyp)


def get_img_files(stock: Callable[..., Any], dataset: Any, *args: Any, **kwargs: Any) -> list[str]:
    """List the pictures, without the RAW files that are left out."""
    from yolo_wnlb.imaging import deep
    from yolo_wnlb.yolo import sixteen_bits

    files = sixteen_bits.without_idle_raw(stock(dataset, *args, **kwargs), dataset.prefix)
    if raw := next((file for file in files if file.lower().endswith(deep.RAW_SUFFIXES)), None):
        deep.import_rawpy(raw)
    return files


def load_image(stock: Callable[..., Any], dataset: Any, i: int, *args: Any, **kwargs: Any) -> Any:
    """Load a picture; a decoded copy of one with more than 8 bits bears the name of its curve."""
    if dataset.ims[i] is None:
        from yolo_wnlb.yolo import sixteen_bits

        sixteen_bits.name_cache(dataset, i)
    return stock(dataset, i, *args, **kwargs)


def cache_images_to_disk(stock: Callable[..., Any], dataset: Any, i: int) -> None:
    """Store a decoded picture; one with more than 8 bits under the name of its curve, and in it."""
    from yolo_wnlb.yolo import sixteen_bits

    sixteen_bits.cache_to_disk(stock, dataset, i)


def patch_dataset(dataset: ModuleType) -> None:
    """Balance the pictures of every data set for classification that is built with balanced=."""
    wrap(dataset.ClassificationDataset, "__init__", init_classification)
    wrap(dataset.ClassificationDataset, "__getitem__", classified_item)
    if hasattr(dataset.ClassificationDataset, "imread"):  # older releases call cv2.imread
        wrap(dataset.ClassificationDataset, "imread", imread)
        dataset.ClassificationDataset.imread = staticmethod(dataset.ClassificationDataset.imread)


def init_classification(stock: Callable[..., Any], dataset: Any, *args: Any, **kwargs: Any) -> None:
    """Build the data set, and give it its balance if it is for training and the arguments ask for it."""
    from yolo_wnlb.yolo import sixteen_bits

    stock(dataset, *args, **kwargs)
    sixteen_bits.name_caches_of_classes(dataset)
    given = inspect.signature(stock).bind(dataset, *args, **kwargs).arguments
    if given.get("augment") and getattr(given["args"], "balanced", None):
        from yolo_wnlb.yolo import balance

        balance.attach_classification(dataset)


def classified_item(stock: Callable[..., Any], dataset: Any, index: int) -> Any:
    """Return the item of an index, or of the one that the balance of the data set draws."""
    balance = vars(dataset).get("balance")
    return stock(dataset, balance() if balance else index)


def patch_downloads(utils: ModuleType) -> None:
    """Say what the 'download:' block of a data YAML is about to fetch or to run; of bash the stock function says it.

    The stock function finds the name `exec` in its module before it finds the builtin one. RAW files count among the
    pictures from here on, and their headers are read by LibRaw.
    """
    from yolo_wnlb.imaging.deep import RAW_SUFFIXES
    from yolo_wnlb.yolo import sixteen_bits

    utils.exec = run_download  # type: ignore[attr-defined]
    utils.Image = sixteen_bits.PillowWithRaw(utils.Image)  # type: ignore[attr-defined]
    utils.IMG_FORMATS.update(suffix[1:] for suffix in RAW_SUFFIXES)
    wrap(utils, "safe_download", safe_download, everywhere=False)


def safe_download(stock: Callable[..., Any], url: Any, *args: Any, **kwargs: Any) -> Any:
    """Log one line about what is fetched for a data set; a file that is here already is unpacked without a word."""
    from ultralytics.utils import LOGGER, clean_url

    if "://" in str(url):
        LOGGER.info(f"fetching {clean_url(str(url))} for this data set, into {kwargs.get('dir') or 'this folder'}")
    return stock(url, *args, **kwargs)


def run_download(code: str, scope: dict[str, Any]) -> None:
    """Log one line about the Python code of a data YAML, then run it."""
    from ultralytics.utils import LOGGER

    lines = [line.strip() for line in code.splitlines() if line.strip() and not line.strip().startswith("#")]
    shown = "; ".join(lines)
    shown = f"{shown[:300]} ... ({len(lines)} lines)" if len(shown) > 300 else shown
    source = scope.get("yaml", {}).get("yaml_file", "a data YAML")
    LOGGER.info(f"{source}: its pictures are missing, so the Python code of its 'download:' block runs now: {shown}")
    exec(code, scope)


def patch_albumentations(albumentations: ModuleType) -> None:
    """Register LowLight, so that A.from_dict finds it in DDP workers and after resume.

    A version too old for LowLight is left as it is; there LowLight itself raises an error that says so.
    """
    with contextlib.suppress(ImportError):
        import yolo_wnlb.transforms  # noqa: F401
