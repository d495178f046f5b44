"""``vidgen data``: what it finds is what is there, its command works, and work that was stopped goes on."""

from __future__ import annotations

import json
import shlex
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from footage import grey, noise, write, write_lossless, write_pictures
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from vidgen.cli import main
from vidgen.cli.compose import compose
from vidgen.cli.mistakes import look
from vidgen.data import decode
from vidgen.data.folder import SPLITS, Folder, table
from vidgen.data.folder.check import command

NAME = 'it\'s a "test" – ролики 影片 $x, [1] {a}: #=%'


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def said(words, capsys, status=0):
    assert main(["data", *map(str, words)]) == status
    return capsys.readouterr()


def config_of(line):
    """The data's recipe of a ``vidgen fit`` line, read as a shell and Hydra read it."""
    vidgen, fit, *words = shlex.split(line)
    assert (vidgen, fit) == ("vidgen", "fit")
    look("fit", words)
    return compose("fit", words)["data"]


@pytest.fixture
def mixed(tmp_path):
    """Train and test folders of two classes, with all that can be wrong with them."""
    root = tmp_path / NAME
    for s, (split, count) in enumerate((("train", 4), ("test", 2))):
        for k in range(count):
            write(root / split / "ab"[k % 2] / f"{k}.mp4", count=20 + k, tone=10 * s + k, size=(24, 32) if k else (30, 20))
    shutil.copy(root / "test" / "a" / "0.mp4", root / "train" / "a" / "again.mp4")
    (root / "train" / "b" / "broken.mp4").write_bytes(b"not a video")
    return root


def test_check_tells_what_is_there(mixed, tmp_path, capsys):
    told = said(["check", mixed], capsys, status=1).out
    assert f"{mixed} is read as videos in 2 class folders in train, test (data.layout=videos)." in told
    assert "Videos    8, 1 of them broken\n" in told
    assert "Sizes     32x24 (4), 20x30 (3)\n" in told
    assert "Rates     10 a second (7)\n" in told
    assert "Lengths   20 to 23 frames, half of them 21 or more\n" in told
    assert "Splits    train 6, test 2\n" in told
    assert "Classes   2: a (4), b (4)\n" in told
    assert "Broken:\n  train/b/broken.mp4: it cannot be opened (Invalid data found when processing input)\n" in told
    assert "There twice:\n  train/a/again.mp4 is a copy of test/a/0.mp4, across splits (test and train)\n" in told
    sheet = Image.open(tmp_path / "data-check.png")
    assert sheet.size == (8 * 66 - 2, 7 * 66 - 2)
    assert "Contact sheet:\n  data-check.png\n" in told


def test_the_command_can_be_given_whatever_the_name(mixed, capsys):
    line = next(line for line in said(["check", mixed], capsys, status=1).out.splitlines() if "vidgen fit" in line)
    data = config_of(line)
    assert data["path"] == str(mixed)
    assert (data["frames"], data["layout"], data["split_by"]) == (17, "auto", "file")


def test_paths_survive_the_shell_and_hydra():
    parser = OverridesParser.create()
    paths = [
        "plain/v.1",
        "it's",
        "a b",
        "a\\",
        "a\\'b",
        "a\\\\",
        "ü",
        "a,b",
        "[x]",
        "{x}",
        "a=b",
        "#",
        "~x",
        "'",
        '"',
        "a:b",
        "(y)",
    ]
    for path in paths:
        word = shlex.split(command(Path(path), []))[-1]
        assert parser.parse_override(word).value() == path


@pytest.mark.parametrize(("count", "frames", "expected"), [(5, 9, {"frames": 9}), (2, 60, {"split_by": "time"}), (4, 17, {})])
def test_the_command_suits_the_data(tmp_path, capsys, count, frames, expected):
    for k in range(count):
        write(tmp_path / "v" / f"{k}.mp4", count=frames, tone=k, size=(16, 16))
    line = next(line for line in said(["check", "v"], capsys).out.splitlines() if "vidgen fit" in line)
    given = {word.partition("=")[0]: word.partition("=")[2] for word in shlex.split(line)[2:]}
    assert given == {"data": "folder", "data.path": str(tmp_path / "v"), **{f"data.{k}": str(v) for k, v in expected.items()}}
    data = config_of(line)
    del data["name"]
    Folder(**data)  # and it does


def test_check_of_other_layouts(tmp_path, capsys):
    for k in range(3):
        write_pictures(tmp_path / "pictures" / f"v{k}", noise(1, 9, seed=k)[0])
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "train.npy", noise())
    told = said(["check", "pictures", "out=new/sheet.png", "workers=2"], capsys).out
    assert "Rates     none stated (3)" in told
    assert (tmp_path / "new" / "sheet.png").exists()
    told = said(["check", "arrays", "layout=arrays"], capsys).out
    assert "Lengths   5 to 5 frames" in told
    assert "Splits    train 6\n" in told
    assert "data.layout=arrays data.frames=5" in told


def test_workers_find_the_same(mixed, capsys):
    one = said(["check", mixed], capsys, status=1).out
    assert said(["check", mixed, "workers=2"], capsys, status=1).out == one


# ---- prepare


@pytest.mark.parametrize("workers", [1, 2])
def test_prepare_fills_the_cache_that_training_reads(mixed, capsys, monkeypatch, workers):
    told = said(["prepare", mixed, "height=16", "width=24", "cache=here", f"workers={workers}"], capsys).out
    assert "Left out train/b/broken.mp4: it cannot be opened" in told
    assert "7 videos, 147 frames, 0.2 MB are in " in told
    data = config_of(told.splitlines()[-1].strip())
    assert (data["height"], data["width"], data["cache"]) == (16, 24, "here")
    monkeypatch.setattr(decode, "frames", lambda *_, **__: pytest.fail("decoded again"))
    del data["name"]
    assert len(Folder(**data).videos) == 6  # the copy is left out
    assert said(["prepare", mixed, "height=16", "width=24", "cache=here"], capsys).err == ""


@pytest.fixture
def sized(tmp_path):
    """Videos of three sizes, a long one among them and one that is too short; more of each than a split needs."""
    sizes = [(12, (24, 24))] * 4 + [(6, (24, 24))] * 3 + [(12, (20, 40))] * 4 + [(2, (24, 24))]
    for tone, (count, size) in enumerate(sizes):
        write(tmp_path / "sized" / f"{tone}.mp4", count=count, tone=9 * tone, size=size)
    return tmp_path / "sized"


@pytest.mark.parametrize("words", [[], ["workers=2"], ["data.decode=direct"], ["data.decode=direct", "workers=2"]])
@pytest.mark.parametrize("buckets", ["auto", "[5x16x16,9x16x16,9x12x24]"])
def test_after_prepare_nothing_is_left_to_decode_or_to_index(sized, capsys, monkeypatch, buckets, words):
    """With the same words: neither frames, nor indices, nor aspects, nor checksums of the files."""
    own = [f"data.buckets={buckets}", "data.tokens=4000", "frames=9", "height=16", "width=16", "data.mirror=0", "cache=here"]
    told = said(["prepare", sized, *own, *words], capsys).out
    left = ["Left out 11.mp4: its 2 frames are too few for any bucket."] if buckets != "auto" else []
    assert [line for line in told.splitlines() if line.startswith("Left out")] == left
    kept = "indexed in" if "data.decode=direct" in words else "in"
    for bucket, videos, frames in (("9x16x16", 4, 48), ("5x16x16", 3, 18)):
        assert f"{bucket}: {videos} videos, {frames} frames, 0.0 MB are {kept} " in told
    recipe = config_of(told.splitlines()[-1].strip())
    assert (recipe["tokens"], recipe["mirror"], recipe["frames"], recipe["cache"]) == (4000, 0.0, 9, "here")
    assert recipe["decode"] == ("direct" if "data.decode=direct" in words else "auto")
    del recipe["name"]

    with monkeypatch.context() as patch:
        for place, name in ((decode, "frames"), (decode, "index"), (table.VideoFile, "sha256")):
            patch.setattr(place, name, lambda *_, name=name, **__: pytest.fail(f"{name} again"))
        data = Folder(**recipe)
        assert capsys.readouterr().err == ""
    assert {part.shape for part in data.buckets} >= {(9, 16, 16), (5, 16, 16)}
    clips = [part.clip("train", 0)["video"].shape for part in data.buckets]
    assert clips == [(*part.shape, 3) for part in data.buckets]


def test_the_cache_stays_where_the_disk_fills_meanwhile(sized, capsys, monkeypatch):
    """What prepare has decoded is not decoded again as it is needed, of whichever bucket it is."""
    own = ["buckets=[5x16x16,9x12x24]", "cache=here"]
    line = said(["prepare", sized, *own], capsys).out.splitlines()[-1]
    monkeypatch.setattr(shutil, "disk_usage", lambda place: pytest.fail("there was nothing to ask"))
    recipe = config_of(line.strip())
    del recipe["name"]
    assert len(Folder(**recipe).buckets) == 2


def test_notes_of_other_buckets_stay(sized, monkeypatch):
    """Buckets share an index, and other buckets a cache of the same size."""
    for kind in ("direct", "cache"):
        shared = {"path": str(sized), "cache": "here", "decode": kind, "frames": 5, "height": 16, "width": 16}
        choices = [None, ["5x16x16", "9x12x24"], ["9x16x16", "5x16x16"]]
        before = [Folder(**shared, buckets=buckets).fingerprint for buckets in choices]
        with monkeypatch.context() as patch:
            patch.setattr(table.VideoFile, "sha256", lambda video: pytest.fail("looked at again"))
            assert [Folder(**shared, buckets=buckets).fingerprint for buckets in choices] == before


def test_prepare_goes_on_where_it_was_stopped(mixed, capsys, monkeypatch):
    original, names = decode.frames, []

    def stopping(path, **options):
        names.append(Path(path).name)
        if len(names) == 4:
            raise KeyboardInterrupt
        return original(path, **options)

    monkeypatch.setattr(decode, "frames", stopping)
    said(["prepare", mixed], capsys, status=130)
    said(["prepare", mixed], capsys)
    assert len(names) - 4 == 3  # of six different ones three were there


@pytest.mark.parametrize("workers", [1, 2])
def test_shards_hold_all_and_are_read_as_data(mixed, tmp_path, capsys, workers):
    told = said(["prepare", mixed, "shards=3", "out=shards", f"workers={workers}"], capsys).out
    assert "Left out train/b/broken.mp4" in told
    assert sorted(path.name for path in Path("shards").iterdir()) == [
        *("shards.json", "test-000000.tar", "train-000000.tar", "train-000001.tar"),
    ]
    shared = {"frames": 4, "height": 8, "width": 8, "cache": str(tmp_path / "cache")}
    before, after = Folder(path=str(mixed), **shared), Folder(path="shards", **shared)
    assert after.class_names == before.class_names
    assert [len(after.files(split)) for split in SPLITS] == [len(before.files(split)) for split in SPLITS]
    known = {video.stored.sha256: (video.label, video.given) for video in before.videos}
    assert {video.stored.sha256 for video in after.videos} == set(known)  # the very bytes
    assert all(known[video.stored.sha256][0] == video.label for video in after.videos)


def test_pictures_become_shards_of_the_same_frames(tmp_path, capsys):
    for k in range(4):
        write_pictures(tmp_path / "v" / f"{k}", noise(1, 5, seed=k)[0])
    said(["prepare", "v", "shards=1", "out=shards"], capsys)
    shared = {"frames": 5, "height": 16, "width": 16, "cache": "cache", "mirror": 0.0, "zoom": 0.0, "light": 0.0}
    data = Folder(path="shards", **shared)
    got = {data.clip(split, i)["video"].tobytes() for split in SPLITS for i in range(data.size(split))}
    assert got == {noise(1, 5, seed=k)[0].tobytes() for k in range(4)}


def test_shards_go_on_and_are_never_mixed(mixed, capsys):
    said(["prepare", mixed, "shards=3", "out=shards"], capsys)
    gone = Path("shards/train-000001.tar")
    content, kept = gone.read_bytes(), Path("shards/train-000000.tar").stat().st_mtime_ns
    gone.unlink()
    told = said(["prepare", mixed, "shards=3", "out=shards"], capsys).out
    assert "3 shards are in" in told
    assert "2 of them from before" in told
    assert gone.read_bytes() == content
    assert Path("shards/train-000000.tar").stat().st_mtime_ns == kept
    mistake = said(["prepare", mixed, "shards=4", "out=shards"], capsys, status=2).err
    assert "out=shards holds something else than these shards" in mistake
    assert "Shards need a folder of their own: give out=FOLDER." in said(["prepare", mixed, "shards=2"], capsys, status=2).err


def test_shards_need_a_folder_of_their_own(mixed, capsys):
    Path("file").write_text("not a folder")
    assert "out=file is a file" in said(["prepare", mixed, "shards=2", "out=file"], capsys, status=2).err
    said(["prepare", mixed, "shards=3", "out=shards"], capsys)
    for damage in ("", "{", "[]", "{}", "null"):
        Path("shards/shards.json").write_text(damage)
        mistake = said(["prepare", mixed, "shards=3", "out=shards"], capsys, status=2).err
        assert "out=shards holds something else than these shards, begun or done" in mistake


def test_shards_of_nothing_are_no_success(tmp_path, capsys):
    (tmp_path / "v").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "v" / name).write_bytes(b"no video")
    assert "None of the 2 videos" in said(["prepare", "v", "shards=2", "out=shards"], capsys, status=2).err


def test_episodes_with_actions_become_shards_with_actions(tmp_path, capsys):
    (tmp_path / "v").mkdir()
    for k in range(4):
        np.savez(tmp_path / "v" / f"{k}.npz", video=noise(1, 5, seed=k)[0], actions=np.arange(5) % 3)
    told = said(["prepare", "v", "shards=2", "out=shards"], capsys).out
    assert told.count(": 2 videos.") == 2
    data = Folder(path="shards", frames=5, height=16, width=16, cache="cache")
    assert data.action_names == ("0", "1", "2")


def test_a_group_stays_one_in_shards(tmp_path, capsys):
    for group in range(4):
        for clip in range(2):
            write_lossless(tmp_path / "v" / f"v_Wave_g{group:02d}_c{clip:02d}.avi", grey(4, 10 * group + clip, (16, 16)))
    said(["prepare", "v", "shards=1", "out=shards"], capsys)
    with tarfile.open("shards/data-000000.tar") as archive:
        texts = [archive.extractfile(name).read() for name in archive.getnames() if name.endswith(".json")]
    assert [json.loads(text)["group"] for text in texts] == [f"wave/g{k // 2:02d}" for k in range(8)]


# ---- mistakes


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "vidgen data takes check or prepare, and not ''."),
        (["chekc", "v"], "vidgen data takes check or prepare, and not 'chekc'. Did you mean 'check'?"),
        (["check"], "vidgen data check takes one PATH, not 0."),
        (["check", "v", "w"], "vidgen data check takes one PATH, not 2: v, w."),
        (["check", "v", "worker=2"], "vidgen data check has no option 'worker'. Did you mean 'workers'?"),
        (["check", "v", "workers=0"], "workers=0 is out of range: give a whole number from 1 on."),
        (["prepare", "v", "height=big"], "height=big is out of range"),
        (["prepare", "v", "fps=0"], "fps=0 is no frame rate"),
        (["prepare", "v", "data.frames=0"], "frames=0 is out of range: give a whole number from 1 on."),
        (["prepare", "v", "data.bucket=auto"], "vidgen data prepare has no option 'bucket'. Did you mean 'buckets'?"),
        (["check", "v", "classes=some"], "classes=some is neither of auto and none."),
        (["check", "v", "layout=cvs"], "There is no data.layout=cvs. Did you mean 'csv'?"),
        (["check", "vdieos"], "There is no folder data.path=vdieos: did you mean data.path=videos?"),
        (["check", "videos"], "No video lies in "),
    ],
)
def test_mistakes_are_sentences(words, sentence, capsys):
    Path("videos").mkdir()
    told = said(words, capsys, status=2)
    assert told.err.startswith(f"vidgen: {sentence}")
    assert len(told.err.splitlines()) == 1
    assert told.out == ""
