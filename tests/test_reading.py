"""Files that a user wrote: what is read, and that every refusal names the file."""

import json

import pytest

from yolo_wnlb.reading import check_aliases, read_json, read_text, read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(10 * ['*' + old])}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_text_with_a_byte_order_mark_is_read_without_it(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffé\n".encode())
    assert read_text(tmp_path / "a.txt") == "é\n"


@pytest.mark.parametrize("read", [read_text, read_json, read_yaml])
@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_text_that_is_not_utf8_is_refused_by_name(read, encoding, tmp_path):
    (tmp_path / "a.txt").write_bytes('{"name": "café"}'.encode(encoding))
    with pytest.raises(ValueError, match=r"a\.txt is not UTF-8 text.*save it as UTF-8"):
        read(tmp_path / "a.txt")


@pytest.mark.parametrize("text", ["", "{", "[1,", "{'a': 1}", "[" * 100_000, "9" * 5000])
def test_a_broken_json_is_refused_by_name(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json is no JSON"):
        read_json(tmp_path / "a.json")


def test_yaml_is_read_as_it_stands(tmp_path):
    (tmp_path / "a.yaml").write_text("base: &base {x: 1}\nrow: {<<: *base, y: 2}\nlist: [1, null, two]\n")
    assert read_yaml(tmp_path / "a.yaml") == {"base": {"x": 1}, "row": {"x": 1, "y": 2}, "list": [1, None, "two"]}
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\nb: 2\na: 3\n", "key 'a' stands twice"),
        ("a: [1\n", "is no YAML"),
        ("a: !!python/object/apply:os.system [ls]\n", "is no YAML"),
        ("a: &a [*a]\n", "contains itself"),
        (BOMB, "would fill the memory"),
        ("[" * 100_000, "nested too deeply"),
        ("a: 1\n---\nb: 2\n", "is no YAML"),
        ("a: \a\n", "is no YAML"),
    ],
)
def test_a_yaml_that_cannot_be_meant_is_refused_by_name(text, reason, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.yaml.*{reason}"):
        read_yaml(tmp_path / "a.yaml")


def test_aliases_alone_are_checked_in_what_another_reader_takes(tmp_path):
    file = tmp_path / "a.yaml"
    for text in ("a: 1\na: 2\nb: &b [*b", "a: &a 1\na: *a\n", "a: \a & * \n", "# & and *\n", "[" * 10_000 + "&*"):
        file.write_text(text)
        check_aliases(file)
    for text in (BOMB, "a: &a [*a]\n"):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"a\.yaml, line \d"):
            check_aliases(file)


def test_a_yaml_beyond_all_bounds_is_not_even_opened(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"# " + b"x" * 17 * 2**20)
    with pytest.raises(ValueError, match=r"a\.yaml has 17 MiB"):
        read_yaml(tmp_path / "a.yaml")


def test_json_numbers_that_are_none_are_left_to_the_validator(tmp_path):
    """Python reads NaN; whoever needs numbers checks them."""
    (tmp_path / "a.json").write_text("[NaN, 1]")
    assert json.dumps(read_json(tmp_path / "a.json")) == "[NaN, 1]"
