"""LowLight in Albumentations; test_albumentationsx_too runs this file on AlbumentationsX as well."""

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import albumentations as A
import numpy as np
import pytest
import torch
from conftest import pip, run_python

from yolo_wnlb.imaging.camera import PRESETS, Shot, settings
from yolo_wnlb.imaging.capture import capture
from yolo_wnlb.transforms import IS_ALBUMENTATIONSX, LowLight

ROOT = Path(__file__).resolve().parents[1]
IMAGE = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
EXTENDED = IS_ALBUMENTATIONSX


def run(transform, seed=7, **data):
    """Apply a transform in a seeded Compose; returns the whole result."""
    return A.Compose([transform], seed=seed, save_applied_params=True)(**(data or {"image": IMAGE}))


def digest(image):
    return hashlib.blake2b(image.tobytes(), digest_size=8).hexdigest()


def test_the_picture_of_a_seed_is_the_same_everywhere():
    assert digest(run(LowLight("severe", gamma=(2, 3), p=1))["image"]) == "5cb68e252448be90"


@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in ("n10", "n20")])
def test_every_preset_but_those_of_added_noise_darkens(preset):
    assert run(LowLight(preset, p=1))["image"].mean() < 0.8 * IMAGE.mean()


@pytest.mark.parametrize(
    "arguments", [{}, {"preset": "mild", "ev": (-4, -2)}, {"bayer": "none"}, {"crf": "srgb", "jpeg_quality": (50, 90)}]
)
def test_what_was_drawn_is_recorded_and_takes_the_same_picture_again(arguments):
    result = run(LowLight(p=1, **arguments))
    name, drawn = result["applied_transforms"][0]
    assert name.endswith("LowLight")
    json.dumps({k: v for k, v in drawn.items() if k != "shape"})
    if EXTENDED:
        again = run(
            LowLight(**{k: v for k, v in drawn.items() if not (drawn["ev"] and k in ("alpha", "beta", "gamma"))}), 99
        )
        assert np.array_equal(again["image"], result["image"])
    else:
        shot = Shot(**{k: v for k, v in drawn.items() if k in Shot.__dataclass_fields__})
        assert np.array_equal(capture(IMAGE, shot, channel_order="rgb"), result["image"])


def test_it_survives_json_with_everything_that_was_set():
    transform = A.Compose([A.OneOf([LowLight("lv", ev=[-4, -2], crf=(0.5, 0.3), jpeg_quality=80, p=1)], p=1)])
    stored = json.loads(json.dumps(A.to_dict(transform)))
    again = A.from_dict(stored)
    for built in (transform, again):
        built.set_random_seed(3)
    assert np.array_equal(transform(image=IMAGE)["image"], again(image=IMAGE)["image"])


def test_a_fresh_process_that_imports_only_albumentations_restores_it(tmp_path):
    (tmp_path / "stored.json").write_text(json.dumps(A.to_dict(A.Compose([LowLight("severe", gamma=(2, 3), p=1)]))))
    np.save(tmp_path / "image.npy", IMAGE)
    code = """
import sys
[sys.path.insert(0, p) for p in reversed(sys.argv[1:])]
import hashlib, json, albumentations as A, numpy as np
transform = A.from_dict(json.load(open("stored.json")))
transform.set_random_seed(7)
print(hashlib.blake2b(transform(image=np.load("image.npy"))["image"].tobytes(), digest_size=8).hexdigest())
"""
    fresh = run_python(code, tmp_path)
    assert fresh.stdout.strip().endswith("5cb68e252448be90"), fresh.stdout + fresh.stderr


def test_frames_of_a_video_share_the_darkness_and_not_the_noise():
    grey = np.full((64, 64, 3), 180, np.uint8)
    frames = run(LowLight("moderate", p=1), images=np.stack([grey] * 4))["images"].astype(float)
    assert frames.shape == (4, 64, 64, 3)
    assert np.ptp(frames.mean((1, 2, 3))) < 1
    residual = frames - frames.mean((1, 2), keepdims=True)
    crossed = np.corrcoef(residual.reshape(4, -1))
    assert abs(crossed[~np.eye(4, dtype=bool)]).max() < 0.05


def test_the_size_of_a_picture_does_not_shift_later_draws():
    def second(first):
        transform = A.Compose([LowLight(p=1)], seed=1)
        transform(image=first)
        return digest(transform(image=IMAGE)["image"])

    assert second(IMAGE) == second(IMAGE[:5, :9].copy())


def test_the_global_random_state_plays_no_part():
    import random

    random.seed(0)
    np.random.seed(0)
    first = digest(run(LowLight(p=1))["image"])
    random.seed(1)
    np.random.seed(1)
    assert digest(run(LowLight(p=1))["image"]) == first


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_grey_and_float_pictures_keep_shape_and_type(channels, kind):
    if channels == () and EXTENDED:
        pytest.skip("AlbumentationsX takes pictures with a channel axis only")
    image = np.full((9, 14, *channels), 0.8 if kind is np.float32 else 200, kind)
    dark = run(LowLight("severe", p=1), image=image)["image"]
    assert dark.shape == image.shape and dark.dtype == kind and dark.mean() < image.mean()


def test_a_fixed_noise_seed_fixes_the_noise():
    fixed = {"alpha": 1, "beta": 1, "gamma": 3, "sigma_s": 0.05, "sigma_c": 0.01, "crf": "srgb", "bayer": "RGGB"}
    first, second = (run(LowLight(**fixed, noise_seed=5, p=1), seed)["image"] for seed in (1, 2))
    assert np.array_equal(first, second)


def test_numbers_of_numpy_are_kept_as_json():
    transform = LowLight(gamma=(np.float32(2), np.int64(3)), sigma_s=np.float64(0.25), noise_seed=np.int64(5), p=1)
    stored = json.loads(json.dumps(A.to_dict(A.Compose([transform]))))["transform"]["transforms"][0]
    assert (stored["gamma"], stored["sigma_s"], stored["noise_seed"]) == ([2, 3], 0.25, 5)


def test_a_replay_takes_the_same_picture_again():
    transform = A.ReplayCompose([LowLight("severe", p=1)])
    transform.set_random_seed(3)
    result = transform(image=IMAGE)
    again = A.ReplayCompose.replay(result["replay"], image=IMAGE)
    assert np.array_equal(again["image"], result["image"])


# ---- the workers of a DataLoader -------------------------------------------------------------------


class Pictures(torch.utils.data.Dataset):
    """Four times the same picture, each with the hash of what a transform makes of it."""

    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return digest(self.transform(image=IMAGE)["image"])


def epochs(transform, method, persistent, torch_seed=0, worker_init_fn=None):
    """Hashes of 3 epochs of 4 pictures, of 2 workers."""
    torch.manual_seed(torch_seed)
    loader = torch.utils.data.DataLoader(
        Pictures(transform),
        num_workers=2,
        multiprocessing_context=method,
        persistent_workers=persistent,
        collate_fn=list,
        worker_init_fn=worker_init_fn,
    )
    return [found for _ in range(3) for batch in loader for found in batch]


WORKERS = [("fork", False, 7), ("fork", True, 7), ("fork", False, None), ("spawn", True, 7)]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.parametrize(("method", "persistent", "seed"), WORKERS)
def test_each_worker_and_epoch_of_a_loader_draws_its_own_pictures(method, persistent, seed):
    """A spawned worker is a fresh interpreter, 5 s: persistent ones start once for the three epochs."""
    if EXTENDED and method == "spawn":
        pytest.skip("slow, and AlbumentationsX does it itself")
    transform = A.Compose([LowLight("severe", p=1)], seed=seed)
    first = epochs(transform, method, persistent)
    assert len(set(first)) == 12
    if method == "fork":
        assert not set(first) & set(epochs(transform, method, persistent, torch_seed=1))
        if seed is not None:
            assert epochs(transform, method, persistent) == first


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_whether_a_picture_is_darkened_differs_between_workers_too():
    kept = [found == digest(IMAGE) for found in epochs(A.Compose([LowLight(p=0.5)], seed=7), "fork", False)]
    assert kept[:6:2] != kept[1:6:2] or kept[6::2] != kept[7::2]  # pictures of the two workers, in turn
    assert 0 < sum(kept) < 12


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_two_transforms_of_one_source_of_randomness_stay_different_in_a_worker():
    transform = A.Compose([LowLight("mild", p=1), LowLight("mild", p=1)], save_applied_params=True)
    transform.set_random_state(np.random.default_rng(0), random.Random(0))

    def two_gammas(_):
        return [drawn["gamma"] for _, drawn in transform(image=IMAGE)["applied_transforms"]]

    loader = torch.utils.data.DataLoader(range(1), num_workers=1, collate_fn=two_gammas, multiprocessing_context="fork")
    ((first, second),) = loader
    assert first != second


def seed_here(worker):
    torch.utils.data.get_worker_info().dataset.transform.set_random_seed(100 + worker)


@pytest.mark.skipif(EXTENDED or sys.platform == "win32", reason="AlbumentationsX mixes in the seed of the worker")
def test_a_seed_that_was_set_in_a_worker_is_kept():
    found = epochs(A.Compose([LowLight(p=1)], seed=7), "fork", True, worker_init_fn=seed_here)
    wanted = []
    for worker in (100, 101):
        transform = A.Compose([LowLight(p=1)])
        transform.set_random_seed(worker)
        wanted.append([digest(transform(image=IMAGE)["image"]) for _ in range(6)])
    assert found == [picture for pair in zip(*wanted) for picture in pair]


def test_without_workers_a_seed_means_what_it_always_meant():
    loader = torch.utils.data.DataLoader(Pictures(A.Compose([LowLight(p=1)], seed=7)), collate_fn=list)
    transform = A.Compose([LowLight(p=1)], seed=7)
    assert [found for (found,) in loader] == [digest(transform(image=IMAGE)["image"]) for _ in range(4)]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"preset": "sever"}, "did you mean 'severe'"),
        ({"gamma": (3, 2)}, "upside down"),
        ({"sigma_s": -1}, r"wanted values in \[0, 1\]"),
        ({"ev": -2, "gamma": 2}, "leave out either"),
        ({"channel_order": "gbr"}, "choose from rgb, bgr"),
        ({"noise_seed": 0.5}, "noise_seed is 0.5"),
        ({"noise_seed": 2**53}, r"noise_seed is 9007199254740992; wanted a whole number in \[0, 9007199254740991\]"),
        ({"noise_seed": True}, "noise_seed is True"),
        ({"gamma": float("nan")}, r"wanted values in \[0.01, 20\]"),
        ({"bayer": "RGB"}, "choose from none, random, RGGB"),
    ],
)
def test_wrong_arguments_are_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        LowLight(**arguments)


def test_a_mistyped_argument_warns_as_albumentations_does():
    with pytest.warns(UserWarning, match="gama"):
        LowLight(gama=2)


def test_defaults_are_the_presets(monkeypatch):
    drawn = run(LowLight(p=1, preset="extreme"))["applied_transforms"][0][1]
    low, high = settings("extreme").gamma
    assert low <= drawn["gamma"] <= high


X = """
import sys, albumentations, pytest
assert albumentations.__version__ == "2.5.1", albumentations.__file__
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.skipif(EXTENDED or sys.version_info < (3, 11), reason="AlbumentationsX needs Python 3.11, and itself not")
def test_albumentationsx_too(tmp_path):
    release = tmp_path / "release"
    wanted = ["albumentationsx==2.5.1", "albucore==0.2.21", "numkong", "stringzilla"]
    pip("install", "--no-deps", "--target", release, *wanted)

    paths = os.pathsep.join([str(release), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": paths, "NO_ALBUMENTATIONS_UPDATE": "1"}
    command = [sys.executable, "-c", X, __file__, "--basetemp", str(tmp_path / "tests")]
    tests = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert tests.returncode == 0, tests.stdout[-8000:] + tests.stderr[-2000:]
